"""Result rows and runs as an experiment would give them to a tracker, without an experiment."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from src.contracts import DataDescription, DataSplits, Row, RunDescription
from src.tracking.provenance import versions


def row(folder: Path, variant: str, **columns: Any) -> Row:
    """A row of ``<variant>.onnxruntime.onnx``, which is written to ``folder`` if it is not there."""
    artifact = folder / f"{variant}.onnxruntime.onnx"
    if not artifact.exists():
        artifact.write_bytes(network(f"{variant} {columns}"))
    given = {
        "variant": variant,
        "target": "onnxruntime",
        "precision": {"computes": ["int8"], "stores": []},
        "runtime": {"name": "onnxruntime", "provider": None, "stands_in_for": None},
        "bits_per_weight": 8.0,
        "accuracy": 0.9,
        "accuracy_validation": 0.91,
        "accuracy_torch": 0.9,
        "accuracy_per_class": {"circle": 0.9, "square": None},
        "size_bytes": 1000,
        "size_gzip_bytes": 500,
        "latency_ms_p50": 0.5,
        "agreement": 1.0,
        "logit_difference_max": 0.0,
        "logit_difference_mean": 0.0,
        "data": "shapes",
        "model": "small_cnn",
        "seed": 0,
        "artifact": artifact.name,
        "sha256": hashlib.sha256(artifact.read_bytes()).hexdigest(),
        "identity": "0123456789abcdef",
        "weights_kept": "last",
        "machine": "test machine",
        "measured_at": "2026-01-01T00:00:00+00:00",
        "unavailable": {},
    }
    return Row.of({**given, **columns})


def network(about: str = "") -> bytes:
    """An ONNX file that takes images of 3x16x16 pixels and gives ten logits; ``about`` tells it from others."""
    weight = numpy_helper.from_array(np.zeros((3 * 16 * 16, 10), np.float32), "weight")
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "network", [image], [logits], [weight])
    opset = helper.make_opsetid("", 13)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8, doc_string=about)
    return bytes(model.SerializeToString())


def described(
    splits: DataSplits, folder: Path, survey: Path | None, variant: str, experiment: str = "digits"
) -> RunDescription:
    """The description of a run in ``folder``, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    return RunDescription(
        experiment=experiment,
        variant=variant,
        model="small_cnn",
        seed=0,
        data=DataDescription.of(splits),
        config={"seed": 0, "method": {"sparsity": 0.8, "ignored": []}},
        command="python -m src.run method=prune_magnitude",
        folder=folder,
        survey=survey,
        versions=versions(),
    )
