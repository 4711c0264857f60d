"""TensorRT 8.2: an ONNX file that its parser takes, and an engine of it where TensorRT is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from src.contracts import Graph, InputError, ModelCard, Session, StoredWeight
from src.deploy import onnxruntime as runs

if TYPE_CHECKING:
    from torch import Tensor, nn


class TensorRt:
    """Writes an ONNX file for TensorRT 8.2 and runs it through ONNX Runtime, without TensorRT where that lacks it.

    Opset 13, IR 7; a quantized model has symmetric int8 quantizers, and weights in float32 before theirs: the builder
    makes int8 of them, so the file is as large as the float one and the engine small. Weights of fewer bits are floats
    in the file, too. FP16 is the builder's choice.
    """

    ending = "onnx"
    extra: str | None = None
    free_batch = True

    @property
    def stand_in(self) -> bool:
        """Whether another runtime computes: its results count, its times do not."""
        import onnxruntime

        return runs.TENSORRT not in onnxruntime.get_available_providers()

    @property
    def runtime(self) -> str:
        return "onnxruntime for tensorrt" if self.stand_in else "tensorrt"

    def precision(self, integer: bool) -> str:
        return "int8" if integer else "float32"

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        """Raises InputError where TensorRT 8.2 lacks an operation, or does not build the file."""
        from src.deploy.onnx_export import export_onnx
        from src.deploy.onnx_tensorrt import fit_tensorrt

        export_onnx(model, example_input, path, card, {}, integer_biases=False, finish=fit_tensorrt)
        if shutil.which("trtexec"):
            build(path, tuple(example_input.shape))
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Raises InputError where the file is no ONNX file, or TensorRT is installed and cannot start."""
        first = [] if self.stand_in else [runs.with_options(runs.TENSORRT, path)]
        return runs.run_with(runs.session(path, threads, [*first, runs.CPU]))

    def graph(self, path: Path) -> Graph:
        from src.deploy.onnx_graph import read_graph

        return read_graph(path)

    def read_card(self, path: Path) -> ModelCard:
        return runs.read_card(path)

    def check(self, path: Path) -> None:
        """Raise InputError that names the first layer of the file which TensorRT 8.2 would not take."""
        from src.deploy.onnx_tensorrt import check

        check(path)

    def remarks(self, path: Path) -> list[str]:
        """What makes the file slower in TensorRT than it need be, a line each."""
        from src.deploy.onnx_tensorrt import remarks

        return remarks(path)


def build(path: Path, shape: tuple[int, ...]) -> Path:
    """Build the file with trtexec for images of ``shape`` (``[n, c, h, w]``); returns the engine beside it.

    An engine runs on the device and TensorRT version that built it and on no other, so it is no part of the file.

    Raises:
        InputError: It was not built; the file is removed.
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
        said = errors[0] if errors else f"trtexec ended with {done.returncode}"
        raise InputError(f"TensorRT does not build {path.name}: {said}")
    return engine
