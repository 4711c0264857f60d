"""Bundles made by hand: a network whose answers are known, and five images."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from src.command.bundling import archive
from src.device.manifest import identity

CLASSES = ["dark", "bright"]
MEAN, STD = [0.5], [0.25]


def brightness(batch: int | str = "n", classes: int = 2) -> bytes:
    """An ONNX file that answers ``bright`` if the sum of the normalized pixels is positive."""
    weight = np.zeros((classes, 4), np.float32)
    weight[1] = 1
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight"], ["logits"], transB=1),
        ],
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def images() -> tuple[np.ndarray, np.ndarray]:
    """Five images: two dark, two bright, and a dark one labelled bright; four of five are classified correctly."""
    levels = np.array([0, 100, 140, 255, 10], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (5, 1, 2, 2)).copy(), np.array([0, 0, 1, 1, 1])


def packed(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, images=pixels, labels=labels)
    return out.getvalue()


def content_of(files: dict[str, dict[str, bytes]], sample: bytes, **more: Any) -> tuple[dict, dict[str, bytes]]:
    """A manifest without its id, and all files; ``files`` are those of each model by its name, ``more`` its entries."""
    every = {f"models/{name}/{file}": data for name, held in files.items() for file, data in held.items()}
    every["samples/levels.npz"] = sample
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in every.items()}
    models = [
        {
            "name": name,
            "label": name,
            "target": "hand",
            "runtime": {"name": "hand", "provider": None, "stands_in_for": None},
            "precision": "float32",
            "computes": ["float32"],
            "sample": "levels",
            "size_bytes": sum(map(len, held.values())),
            "files": [{"file": f"models/{name}/{file}", "sha256": sums[f"models/{name}/{file}"]} for file in held],
            **more,
        }
        for name, held in files.items()
    ]
    about = {
        "name": "levels",
        "data": "levels",
        "file": "samples/levels.npz",
        "sha256": sums["samples/levels.npz"],
        "images": 5,
        "of": 10,
        "image_shape": [1, 2, 2],
        "classes": CLASSES,
        "mean": MEAN,
        "std": STD,
    }
    return {"format": 2, "models": models, "samples": [about]}, every


def write(path: Path, content: dict, files: dict[str, bytes]) -> Path:
    """The bundle of a manifest, which gets its id here."""
    named = {**content, "id": identity(content)}
    path.write_bytes(archive({**files, "manifest.json": json.dumps(named).encode()}))
    return path


def bundle(path: Path, files: dict[str, dict[str, bytes]] | None = None, **more: Any) -> Path:
    """A bundle of ``files``, else of one ONNX network."""
    made = files or {"net": {"net.onnx": brightness()}}
    return write(path, *content_of(made, packed(*images()), **more))
