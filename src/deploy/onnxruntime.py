"""ONNX Runtime: the file is the ONNX file itself."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.contracts import Graph, InputError, ModelCard, Session, StoredWeight, first_line
from src.deploy import cards

if TYPE_CHECKING:
    from torch import Tensor, nn

CPU = "CPUExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
STORED = ("float32", "float16")
PROFILED_RUNS = 50


class OnnxRuntime:
    """Writes ``.onnx`` and runs it in ONNX Runtime.

    A float model's file computes in float32; a quantized model's file holds int8 weights and computes in int8.

    Args:
        provider: Where it runs, as ONNX Runtime names it: ``CPUExecutionProvider``, ``CUDAExecutionProvider``, ...
        stored: ``float32`` or ``float16``: how float weights lie in the file.
    """

    ending = "onnx"
    extra: str | None = None
    free_batch = True
    stand_in = False

    def __init__(self, *, provider: str, stored: str) -> None:
        if stored not in STORED:
            raise ValueError(f"stored must be one of {', '.join(STORED)}, and is {stored}")
        if provider == TENSORRT and stored != "float32":
            raise ValueError("TensorRT 8.2 takes no float16 weights from a file; its builder makes them")
        self.provider, self.stored = provider, stored

    @property
    def runtime(self) -> str:
        return "onnxruntime" if self.provider == CPU else f"onnxruntime with {self.provider}"

    def precision(self, integer: bool) -> str:
        computed = "int8" if integer else "float32"
        return computed if self.stored == "float32" else f"{computed}, {self.stored} stored"

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        from src.deploy.onnx_export import export_onnx
        from src.deploy.onnx_integers import store_halves
        from src.deploy.onnx_tensorrt import fit_tensorrt

        if self.provider == TENSORRT:
            export_onnx(model, example_input, path, card, {}, integer_biases=False, finish=fit_tensorrt)
        else:
            finish = store_halves if self.stored == "float16" else None
            # what fuses on a CPU is no form that other providers know
            export_onnx(model, example_input, path, card, weights, integer_biases=self.provider == CPU, finish=finish)
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Raises InputError where the file is no ONNX file that this runtime reads, or the provider is not there."""
        return run_with(session(path, threads, self._providers(path)))

    def _providers(self, path: Path) -> list[Any]:
        return [self.provider] if self.provider == CPU else [with_options(self.provider, path), CPU]

    def graph(self, path: Path) -> Graph:
        from src.deploy.onnx_graph import read_graph

        return read_graph(path)

    def read_card(self, path: Path) -> ModelCard:
        return read_card(path)

    def operators(self, path: Path, image: np.ndarray, threads: int) -> list[tuple[str, str, float]]:
        """Node, operator and milliseconds (the median) of one image ``[1, c, h, w]``, longest first, as optimized."""
        with tempfile.TemporaryDirectory() as folder:
            profiled = session(path, threads, self._providers(path), profile=str(Path(folder) / "profile"))
            run = run_with(profiled)
            for _ in range(PROFILED_RUNS):
                run(image)
            events = json.loads(Path(profiled.end_profiling()).read_text())
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for event in events:
            name, kernel, _ = event["name"].rpartition("_kernel_time")
            if event["cat"] == "Node" and kernel:
                times[re.sub(r"_token_\d+$", "", name), event["args"]["op_name"]].append(event["dur"] / 1000)
        medians = [(*node, float(np.median(took))) for node, took in times.items()]
        return sorted(medians, key=lambda median: -median[2])


def read_card(path: Path) -> ModelCard:
    """What the file says of itself."""
    return cards.from_text(session(path, 1, [CPU]).get_modelmeta().custom_metadata_map, path)


def with_options(provider: str, path: Path) -> Any:
    """The provider as a session takes it: TensorRT computes quantized files in int8 only where it is told to."""
    from src.deploy.onnx_tensorrt import is_quantized

    return (provider, {"trt_int8_enable": is_quantized(path)}) if provider == TENSORRT else provider


def run_with(loaded: Any) -> Session:
    """The session's only input and output as a function."""
    image, logits = loaded.get_inputs()[0].name, loaded.get_outputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        result: np.ndarray = loaded.run([logits], {image: images})[0]
        return result

    return run


def session(path: Path, threads: int, providers: Sequence[Any], *, profile: str | None = None) -> Any:
    """Load the file for the first of ``providers`` (names, or names with options), or raise InputError.

    ONNX Runtime by itself goes on silently on the CPU where a provider is missing or cannot start.
    """
    import onnxruntime

    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    present = onnxruntime.get_available_providers()
    if wanted not in present:
        raise InputError(f"the installed ONNX Runtime has no {wanted}; it has {', '.join(present)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        loaded = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # its exceptions have no common public base class
        raise InputError(f"{path} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
    if wanted not in loaded.get_providers():
        raise InputError(f"{wanted} is installed but cannot start here: a library of its own or a device is missing")
    return loaded
