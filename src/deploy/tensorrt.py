"""The target TensorRT 8.2: an ONNX file that its parser takes, and an engine built from it if TensorRT is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from src.contracts import Graph, InputError, ModelCard, Precision, Runtime, Session, StoredWeight, Target
from src.contracts.output_quantizers import without_output_quantizers
from src.deploy import onnxruntime as runs

if TYPE_CHECKING:
    from torch import Tensor, nn


class TensorRt(Target):
    """Writes an ONNX file for TensorRT 8.2 and runs it in ONNX Runtime, through TensorRT if that is installed.

    The file has opset 13 and IR version 7. A quantized model has symmetric int8 quantizers with float32 weights in
    front of theirs, of which the builder makes int8: the file is as large as the float one, and the engine is small.
    Weights of fewer bits are floats in the file, too. The builder decides on FP16.
    """

    ending = "onnx"

    unquantized_outputs = ("convolution", "product")

    @property
    def runtime(self) -> Runtime:
        import onnxruntime

        if runs.TENSORRT in onnxruntime.get_available_providers():
            return Runtime("tensorrt")
        return Runtime("onnxruntime", stands_in_for="tensorrt")

    def precision(self, integer: bool) -> Precision:
        return Precision(("int8" if integer else "float32",))

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        """Write the file; raise InputError if TensorRT 8.2 lacks an operation, or cannot build the engine."""
        from src.deploy.onnx_export import export_onnx
        from src.deploy.onnx_tensorrt import fit_tensorrt

        with without_output_quantizers(model, self.unquantized_outputs):
            export_onnx(model, example_input, path, card, {}, integer_biases=False, finish=fit_tensorrt)
        if shutil.which("trtexec"):
            build(path, tuple(example_input.shape))
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Load the file; raise InputError if it is no ONNX file, or TensorRT is installed and cannot start."""
        first = [] if self.stand_in else [runs.with_options(runs.TENSORRT, path)]
        return runs.run_with(runs.session(path, threads, [*first, runs.CPU]))

    def graph(self, path: Path) -> Graph:
        from src.deploy.onnx_graph import read_graph

        return read_graph(path)

    def read_card(self, path: Path) -> ModelCard:
        return runs.read_card(path)

    def check(self, path: Path) -> None:
        """Raise InputError for the first layer of the file that TensorRT 8.2 does not take."""
        from src.deploy.onnx_tensorrt import check

        check(path)

    def remarks(self, path: Path) -> list[str]:
        from src.deploy.onnx_tensorrt import remarks

        return remarks(path)


def build(path: Path, shape: tuple[int, ...]) -> Path:
    """Build an engine with trtexec, and return its path, beside the file.

    An engine runs only on the device and the TensorRT version that built it, so it is no part of the exported file.

    Args:
        path: The ONNX file.
        shape: Shape of the images, ``[n, c, h, w]``.

    Raises:
        InputError: TensorRT cannot build it; the ONNX file is removed.
    """
    from src.deploy.onnx_tensorrt import is_quantized

    engine = path.with_suffix(".engine")
    command = ["trtexec", f"--onnx={path}", f"--saveEngine={engine}", "--fp16"]
    command += [f"--shapes=image:{'x'.join(map(str, shape))}", *(["--int8"] if is_quantized(path) else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in (done.stdout + done.stderr).splitlines() if "[E]" in line]
        path.unlink()
        engine.unlink(missing_ok=True)
        reason = errors[0] if errors else f"trtexec ended with {done.returncode}"
        raise InputError(f"TensorRT cannot build {path.name}: {reason}")
    return engine
