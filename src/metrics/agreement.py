"""Whether an exported file does what its torch model does, and if not, which layer differs first."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.contracts import NNCF_HOOKS, Lowered, ModelCard, Session, Target
from src.contracts.output_quantizers import without_output_quantizers

SINGLES = 32  # images that are also run alone
DEPARTED = 0.05  # a layer departs if its outputs differ by more than this share of their norm


@dataclass(frozen=True)
class Agreement:
    """How close a file's logits are to those of torch.

    Attributes:
        classes: Share of images for which both predict the same class: in batches, or alone if that is less.
        largest, mean: Largest and mean absolute difference of a logit.
        range: Largest less smallest of torch's logits.
    """

    classes: float
    largest: float
    mean: float
    range: float


def agreement(session: Session, model: nn.Module, images: Iterable[Tensor]) -> Agreement:
    """Compare ``session`` with ``model`` on batches ``[n, c, h, w]`` of normalized images.

    Some images are also run alone: a network that branches on the values of a batch can branch otherwise for one image.
    """
    together, alone = _Sums(), _Sums()
    for number, batch in enumerate(images):
        together.add(session, model, batch)
        for image in batch[:SINGLES] if number == 0 else ():
            alone.add(session, model, image[None])
    classes = min(together.same / max(1, together.images), alone.same / max(1, alone.images))
    return Agreement(
        classes,
        largest=max(together.largest, alone.largest),
        mean=together.total / max(1, together.logits),
        range=together.highest - together.lowest if together.images else 0.0,
    )


@dataclass
class _Sums:
    """Sums over images: equal classes, and absolute differences of logits."""

    same: int = 0
    images: int = 0
    total: float = 0.0
    logits: int = 0
    largest: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf

    @torch.inference_mode()
    def add(self, session: Session, model: nn.Module, batch: Tensor) -> None:
        found, expected = torch.from_numpy(session(batch.numpy())), model.eval()(batch)
        differences = (found - expected).abs().nan_to_num(torch.finfo(torch.float32).max)
        self.same += int((found.argmax(1) == expected.argmax(1)).sum())
        self.images += len(batch)
        self.total += float(differences.sum(dtype=torch.float64))
        self.logits += differences.numel()
        self.largest = max(self.largest, float(differences.max()))
        self.lowest = min(self.lowest, float(expected.min()))
        self.highest = max(self.highest, float(expected.max()))


def departs_at(target: Target, lowered: Lowered, example_input: Tensor, images: Tensor, folder: Path) -> str | None:
    """Name the first layer whose outputs in the runtime differ from those of torch; None if no layer's do.

    The network is exported once more with the outputs of all layers as its result, which works for every format.

    Args:
        target: Target of the file.
        lowered: The network that was exported.
        example_input: One image, ``[1, c, h, w]``.
        images: Normalized images, ``[n, c, h, w]``; a few are enough.
        folder: Folder for the file.
    """
    probed = Probed(copy.deepcopy(lowered.model).eval())
    with torch.inference_mode(), without_output_quantizers(probed, target.unquantized_outputs):
        expected = probed(images).numpy()
    card = ModelCard((), (images.shape[1], images.shape[2], images.shape[3]), (), (), "")
    path = folder / f"probed.{target.ending}"
    target.export(probed, example_input, path, card, lowered.weights)
    found = target.load(path)(images.numpy())
    start = 0
    for name, width in probed.widths.items():
        here, there = found[:, start : start + width], expected[:, start : start + width]
        if np.linalg.norm(here - there) > DEPARTED * np.linalg.norm(there):
            return name
        start += width
    return None


class Probed(nn.Module):
    """A network that returns the outputs of all its layers, in the order in which they run.

    Args:
        model: The network; its innermost modules are its layers, except quantizers.

    Attributes:
        widths: Number of outputs of each layer for one image, by the layer's name; known after the first call.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.widths: dict[str, int] = {}
        self._outputs: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            inner = not list(module.children()) or hasattr(module, "weight")
            if name and inner and "quant" not in type(module).__name__.lower() and "." + NNCF_HOOKS not in f".{name}":
                module.register_forward_hook(self._keep(name))

    def forward(self, images: Tensor) -> Tensor:
        """Outputs of all layers, ``[n, sum of widths]``, the logits last."""
        self._outputs.clear()
        logits = self.model(images)
        outputs = {**self._outputs, "the logits": logits}
        self._outputs.clear()
        self.widths = {name: output.flatten(1).shape[1] for name, output in outputs.items()}
        return torch.cat([output.flatten(1) for output in outputs.values()], 1)

    def _keep(self, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self._outputs[name] = output

        return hook
