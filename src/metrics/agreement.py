"""Whether an exported file does what the torch model does, and which layer departs first where it does not."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.contracts import Lowered, ModelCard, Session, Target

DEPARTED = 0.05  # a layer's outputs differ by so much of their own size


@dataclass(frozen=True)
class Agreement:
    """A file's logits against torch's.

    Attributes:
        classes: Share of images for which both predict the same class.
        largest, mean: Absolute differences of logits.
    """

    classes: float
    largest: float
    mean: float


def agreement(session: Session, model: nn.Module, images: Iterable[Tensor]) -> Agreement:
    """Compare ``session`` with ``model`` on batches ``[n, c, h, w]`` of normalized images."""
    same, count, total, largest, logits = 0, 0, 0.0, 0.0, 0
    with torch.inference_mode():
        for batch in images:
            ours, theirs = torch.from_numpy(session(batch.numpy())), model.eval()(batch)
            apart = (ours - theirs).abs().nan_to_num(torch.finfo(torch.float32).max)
            same += int((ours.argmax(1) == theirs.argmax(1)).sum())
            count += len(batch)
            total += float(apart.sum(dtype=torch.float64))
            logits += apart.numel()
            largest = max(largest, float(apart.max()))
    return Agreement(same / max(1, count), largest, total / max(1, logits))


def departs_at(target: Target, lowered: Lowered, example_input: Tensor, images: Tensor, folder: Path) -> str | None:
    """The first layer whose outputs in the runtime are not those of torch; None where no layer departs.

    The network is exported once more with every layer's output as a result, which tells for any format.

    Args:
        target: The runtime.
        lowered: What was exported.
        example_input: ``[1, c, h, w]``.
        images: ``[n, c, h, w]``, normalized; few will do.
        folder: For the file.
    """
    probed = Probed(copy.deepcopy(lowered.model).eval())
    with torch.inference_mode():
        expected = probed(images).numpy()
    card = ModelCard((), (images.shape[1], images.shape[2], images.shape[3]), (), (), "")
    path = folder / f"probed.{target.ending}"
    target.export(probed, example_input, path, card, lowered.weights)
    found = target.load(path)(images.numpy())
    start = 0
    for name, width in probed.widths.items():
        ours, theirs = found[:, start : start + width], expected[:, start : start + width]
        if np.linalg.norm(ours - theirs) > DEPARTED * np.linalg.norm(theirs):
            return name
        start += width
    return None


class Probed(nn.Module):
    """A network that gives the outputs of all its layers, in the order in which they ran.

    Args:
        model: Its innermost modules count as layers; quantizers are none.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.widths: dict[str, int] = {}
        self._outputs: dict[str, Tensor] = {}
        for name, module in model.named_modules():
            inner = not list(module.children()) or hasattr(module, "weight")
            if name and inner and "quant" not in type(module).__name__.lower() and "." + HOOKS not in f".{name}":
                module.register_forward_hook(self._keep(name))

    def forward(self, images: Tensor) -> Tensor:
        """``[n, outputs of all layers]``, the logits last."""
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


HOOKS = "__nncf_hooks"  # what quantization hung onto the network
