"""From a model to a file: the network as exporters take it, and the file that a target writes of it."""

from __future__ import annotations

import copy
import errno
from pathlib import Path

from torch import nn

from src.contracts import (
    DataSplits,
    InputError,
    Lowered,
    Method,
    ModelCard,
    NotExportableError,
    QuantizingMethod,
    Target,
    first_line,
)
from src.data.batches import example_image
from src.primitives.folding import fold_batch_norm


def lowered(model: nn.Module, last: Method | None, splits: DataSplits) -> Lowered:
    """``model``, made by the step ``last``, as exporters take it, with its batch normalization folded."""
    if isinstance(last, QuantizingMethod):
        return last.lower(model, example_image(splits))
    folded = copy.deepcopy(model).eval()
    fold_batch_norm(folded, example_image(splits))
    return Lowered(folded, {}, False)


def written(
    name: str, target: Target, result: Lowered, splits: DataSplits, path: Path, identity: str
) -> tuple[Path, ...]:
    """Export ``result`` to ``path``; return every part of the file.

    Args:
        name: Name of the target.
        target: What writes the file.
        result: The network.
        splits: The data; the file says its classes, image shape and normalization.
        path: Where to write.
        identity: Identity of the stage that is exported.

    Raises:
        NotExportableError: The target cannot hold the network.
        InputError: What exports for the target is not installed.
        OSError: The disk is full.
    """
    card = ModelCard(splits.classes, splits.image_shape, splits.mean, splits.std, identity)
    try:
        return target.export(result.model, example_image(splits), path, card, result.weights)
    except ModuleNotFoundError as error:
        extra = target.extra or name
        raise InputError(
            f"target.{name} needs {error.name}, which is not installed: pip install '.[{extra}]'"
        ) from error
    except Exception as error:  # exporters raise types of their own
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # says nothing of the network
            raise
        raise NotExportableError(f"target.{name}: the network cannot be exported: {first_line(error)}") from error
