"""The workbench for a Python program: ``from src.api import compress``; these names stay.

A network, data, methods and targets in; files, rows and the compressed network out, with the stages, resume and
tracking of ``python -m src.run``::

    result = compress(model, data=(train_loader, validation_loader, test_loader),
                      methods=[method("prune_magnitude", sparsity=0.8), method("quantize_int8")],
                      targets=["onnxruntime"], train=recipe("default", epochs=10), budget=Budget(accuracy_drop=0.005))
    print(result.table())

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clock = Clock(threads=1, seconds=0.01, rounds=1, largest_batch=1)
    ...     own = {"artifacts": folder, "folder": f"{folder}/run", "tracking": "off"}
    ...     settings = Settings(**own, clock=clock, quiet=True)
    ...     result = compress(network("small_cnn"), dataset("digits"), ["quantize_int8"], settings=settings)
    >>> [(row.variant, row.target, row.bits_per_weight) for row in result.rows]
    [('baseline', 'onnxruntime', 32.0), ('quantize_int8', 'onnxruntime', 8.0)]
"""

from __future__ import annotations

from src.command.calling import Result, Settings, compress
from src.command.named import Named, dataset, method, network, recipe, target
from src.contracts import (
    Compressed,
    Context,
    DataSplits,
    ImageSet,
    InputError,
    Method,
    Recipe,
    Row,
    Target,
    TrackingError,
)
from src.data.loaders import splits
from src.experiment.budget import Budget
from src.metrics.board import Board
from src.metrics.timing import Clock

__all__ = [
    "Board",
    "Budget",
    "Clock",
    "Compressed",
    "Context",
    "DataSplits",
    "ImageSet",
    "InputError",
    "Method",
    "Named",
    "Recipe",
    "Result",
    "Row",
    "Settings",
    "Target",
    "TrackingError",
    "compress",
    "dataset",
    "method",
    "network",
    "recipe",
    "splits",
    "target",
]
