"""The workbench for a Python program: ``from src.api import compress``; these names stay.

A network, data, methods and targets in; files, rows and the compressed network out, with the stages, resume and
tracking of ``python -m src.run``::

    result = compress(model, data=(train_loader, validation_loader, test_loader),
                      methods=[Prune(sparsity=0.8), QuantizeInt8()], targets=[OnnxRuntime()],
                      train=recipe("default", epochs=10), budget=Budget(accuracy_drop=0.005))
    print(result.table())

``Prune(sparsity=0.8)`` is ``method("prune_magnitude", sparsity=0.8)``: what is not given has the value of ``conf/``.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clock = Clock(threads=1, seconds=0.01, rounds=1, largest_batch=1)
    ...     own = {"artifacts": folder, "folder": f"{folder}/run", "tracking": "off"}
    ...     settings = Settings(**own, clock=clock, quiet=True)
    ...     made = {"methods": [QuantizeInt8()], "targets": [OnnxRuntime()]}
    ...     result = compress(network("small_cnn"), dataset("digits"), **made, settings=settings)
    >>> [(row.variant, row.target, row.bits_per_weight) for row in result.rows]
    [('baseline', 'onnxruntime', 32.0), ('quantize_int8', 'onnxruntime', 8.0)]
"""

from __future__ import annotations

from functools import partial

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

# A name for each class of methods and targets; ``method`` and ``target`` take every file of conf/, yours among them.
Prune = partial(method, "prune_magnitude")
PruneChannels = partial(method, "prune_channels")
PruneRegularized = partial(method, "prune_regularized")
Cluster = partial(method, "cluster")
LowRank = partial(method, "low_rank")
Distill = partial(method, "distill")
QuantizeInt8 = partial(method, "quantize_int8")
QuantizeUniform = partial(method, "quantize_uniform")
OnnxRuntime = partial(target, "onnxruntime")
OpenVino = partial(target, "openvino")
TfLite = partial(target, "tflite")
TensorRt = partial(target, "tensorrt")
TorchProgram = partial(target, "torch")
PackedFile = partial(target, "packed")

__all__ = [
    "Board",
    "Budget",
    "Clock",
    "Cluster",
    "Compressed",
    "Context",
    "DataSplits",
    "Distill",
    "ImageSet",
    "InputError",
    "LowRank",
    "Method",
    "Named",
    "OnnxRuntime",
    "OpenVino",
    "PackedFile",
    "Prune",
    "PruneChannels",
    "PruneRegularized",
    "QuantizeInt8",
    "QuantizeUniform",
    "Recipe",
    "Result",
    "Row",
    "Settings",
    "Target",
    "TensorRt",
    "TfLite",
    "TorchProgram",
    "TrackingError",
    "compress",
    "dataset",
    "method",
    "network",
    "recipe",
    "splits",
    "target",
]
