"""Exporting a model: the network is lowered for the exporters, and each file that a target writes is tried at once."""

from __future__ import annotations

import copy
import errno
from pathlib import Path

import torch
from torch import Tensor, nn

from src.contracts import (
    DataSplits,
    InputError,
    Lowered,
    Method,
    ModelCard,
    NotExportableError,
    Precision,
    QuantizingMethod,
    RefusedFileError,
    Target,
    first_line,
)
from src.data.batches import calibration_batches, example_image
from src.experiment.watching import check_repeats, decisions
from src.primitives.folding import fold_batch_norm

TRIED = (1, 3)  # images that a written file is given at once
DIFFERENCE = 1e-4  # largest difference of a float file's logits from torch's, of their range


def lowered(model: nn.Module, last: Method | None, splits: DataSplits) -> Lowered:
    """``model``, made by the step ``last``, as exporters take it, with its batch normalization folded.

    Raises:
        InputError: The network draws random numbers in eval mode.
    """
    check_repeats(model.eval(), few_images(splits))
    if isinstance(last, QuantizingMethod):
        return last.lower(model, example_image(splits))
    folded = copy.deepcopy(model).eval()
    fold_batch_norm(folded, example_image(splits))
    return Lowered(folded, {}, False)


def written(
    name: str, target: Target, result: Lowered, splits: DataSplits, path: Path, identity: str
) -> tuple[Path, ...]:
    """Export ``result`` to ``path`` and try the file in its runtime; return every part of it.

    Args:
        name: Name of the target.
        target: What writes the file.
        result: The network.
        splits: The data; the file says its classes, image shape and normalization.
        path: Where to write.
        identity: Identity of the stage that is exported.

    Raises:
        NotExportableError: The target cannot hold the network.
        RefusedFileError: The target's runtime fails on the file, or its logits are not those of the network.
        InputError: What exports for the target is not installed.
        OSError: The disk is full.
    """
    card = ModelCard(splits.classes, splits.image_shape, splits.mean, splits.std, identity, splits.preparation)
    try:
        parts = target.export(result.model, example_image(splits), path, card, result.weights)
    except ModuleNotFoundError as error:
        extra = target.extra or name
        raise InputError(
            f"target.{name} needs {error.name}, which is not installed: pip install '.[{extra}]'"
        ) from error
    except Exception as error:  # exporters raise types of their own
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # says nothing of the network
            raise
        raise NotExportableError(f"target.{name}: the network cannot be exported: {first_line(error)}") from error
    try_file(name, target, parts[0], result, few_images(splits))
    return parts


def few_images(splits: DataSplits) -> Tensor:
    """A few normalized training images, ``[3, c, h, w]``."""
    return calibration_batches(splits).normalize(splits.train.images[: max(TRIED)])


def try_file(name: str, target: Target, path: Path, result: Lowered, images: Tensor) -> None:
    """Run a file on one image and on several, and compare its logits with torch's if both compute in float32.

    Args:
        name: Name of the target.
        target: What wrote the file.
        path: Its first part.
        result: The network that it was written from.
        images: Normalized images, ``[n, c, h, w]``.

    Raises:
        RefusedFileError: The runtime fails, or its logits are not those of the network.
    """
    exact = not (result.integer or target.runtime.provider) and target.precision(False) == Precision(("float32",))
    try:
        session = target.load(path)
        found = {count: torch.from_numpy(session(images[:count].numpy())) for count in TRIED}
    except Exception as error:  # runtimes raise types of their own
        reason = first_line(error).replace(str(path), "the file")
        raise RefusedFileError(f"target.{name}: its runtime fails on the exported file: {reason}") from error
    for count, logits in found.items():
        with torch.no_grad():
            expected = result.model(images[:count])
        if logits.shape != expected.shape:
            what = f"{tuple(logits.shape)} instead of {tuple(expected.shape)} logits"
        else:
            scale = max(expected.abs().max(), expected.max() - expected.min(), torch.tensor(1e-6))
            off = float((logits - expected).abs().max() / scale)
            if not exact or off <= DIFFERENCE:
                continue
            what = f"logits that differ from torch's by {off:.2g} of their range"
        lines = decisions(result.model, images[:count])
        why = f"; {', '.join(lines)} branches on the values of an image" if lines else ""
        raise RefusedFileError(f"target.{name}: for {count} image{'s' * (count > 1)} the file gives {what}{why}")
