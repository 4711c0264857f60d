"""ONNX Runtime on the CPU: the file is the ONNX file itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from src.contracts import Graph, InputError, ModelCard, Session, StoredWeight, first_line
from src.deploy import cards


class OnnxRuntime:
    """Writes ``.onnx`` and runs it in ONNX Runtime.

    ``float32`` computes in float32; a quantized model's file holds int8 weights and computes in int8.
    """

    runtime = "onnxruntime"
    ending = "onnx"

    def precision(self, integer: bool) -> str:
        return "int8" if integer else "float32"

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        from src.deploy.onnx_export import export_onnx

        export_onnx(model, example_input, path, card, weights)
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Raises InputError where the file is no ONNX file that this runtime reads."""
        session = _session(path, threads)
        image, logits = session.get_inputs()[0].name, session.get_outputs()[0].name

        def run(images: np.ndarray) -> np.ndarray:
            result: np.ndarray = session.run([logits], {image: images})[0]
            return result

        return run

    def graph(self, path: Path) -> Graph:
        from src.deploy.onnx_export import read_graph

        return read_graph(path)

    def read_card(self, path: Path) -> ModelCard:
        return cards.from_text(_session(path, 1).get_modelmeta().custom_metadata_map, path)


def _session(path: Path, threads: int):  # type: ignore[no-untyped-def]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common public base class
        raise InputError(f"{path} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
