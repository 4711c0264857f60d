"""The target ONNX Runtime: its file is the ONNX file itself."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.contracts import Graph, InputError, ModelCard, Precision, Runtime, Session, StoredWeight, Target, first_line
from src.contracts.output_quantizers import without_output_quantizers
from src.deploy import cards
from src.deploy.number_formats import checked_storage, halves

if TYPE_CHECKING:
    from torch import Tensor, nn

CPU = "CPUExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROFILED_RUNS = 50
FLOAT_KERNELS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class OnnxRuntime(Target):
    """Writes ``.onnx`` and runs it in ONNX Runtime.

    The file of a float model computes in float32; that of a quantized model holds int8 weights and computes in int8.

    Args:
        provider: The execution provider, as ONNX Runtime names it: ``CPUExecutionProvider``,
            ``CUDAExecutionProvider``, ...
        stored: Number format of float weights in the file: ``float32`` or ``float16``.
    """

    ending = "onnx"

    def __init__(self, *, provider: str, stored: str) -> None:
        self.provider, self.stored = provider, checked_storage(stored)
        if provider == TENSORRT and stored != "float32":
            raise ValueError("TensorRT 8.2 takes no float16 weights from a file; its builder makes them")

    @property
    def runtime(self) -> Runtime:
        return Runtime("onnxruntime", None if self.provider == CPU else self.provider)

    @property
    def unquantized_outputs(self) -> tuple[str, ...]:
        return ("product",) if self.provider == CPU else ("convolution", "product")

    def precision(self, integer: bool) -> Precision:
        return Precision(("int8" if integer else "float32",), halves(self.stored))

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        from src.deploy.onnx_export import export_onnx
        from src.deploy.onnx_integers import store_halves
        from src.deploy.onnx_tensorrt import fit_tensorrt

        on_cpu = self.provider == CPU
        with without_output_quantizers(model, self.unquantized_outputs):
            if self.provider == TENSORRT:
                export_onnx(model, example_input, path, card, {}, integer_biases=False, finish=fit_tensorrt)
            else:
                finish = store_halves if self.stored == "float16" else None
                # the form that fuses on a CPU is not known to other providers
                export_onnx(model, example_input, path, card, weights, integer_biases=on_cpu, finish=finish)
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Load the file; raise InputError if it is no ONNX file for this runtime, or the provider is not there."""
        return run_with(session(path, threads, self._providers(path)))

    def _providers(self, path: Path) -> list[Any]:
        return [self.provider] if self.provider == CPU else [with_options(self.provider, path), CPU]

    def graph(self, path: Path) -> Graph:
        from src.deploy.onnx_graph import read_graph

        return read_graph(path, float_kernels(path) if self.provider == CPU else ())

    def read_card(self, path: Path) -> ModelCard:
        return read_card(path)

    def opset(self, path: Path) -> int | None:
        from src.deploy.onnx_export import opset_of

        return opset_of(path)

    def remarks(self, path: Path) -> list[str]:
        from src.deploy.onnx_export import newer_opset

        return newer_opset(path)

    def operators(self, path: Path, image: np.ndarray, threads: int) -> list[tuple[str, str, float]]:
        """Name, operator and median milliseconds of each node of the optimized graph, the longest first.

        Args:
            path: The file.
            image: One image, ``[1, c, h, w]``.
            threads: Number of threads.
        """
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
        medians = [(*node, float(np.median(taken))) for node, taken in times.items()]
        return sorted(medians, key=lambda median: -median[2])


def read_card(path: Path) -> ModelCard:
    """Read the card from the metadata of an ONNX file."""
    return cards.from_text(session(path, 1, [CPU]).get_modelmeta().custom_metadata_map, path)


def float_kernels(path: Path) -> set[str]:
    """Names of the convolutions and products that ONNX Runtime's CPU optimizer leaves in floats.

    A file with quantizers on all sides of an operation only asks for an integer kernel.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        session(path, 1, [CPU], optimized=str(optimized))
        nodes = onnx.load(str(optimized)).graph.node
    return {node.name for node in nodes if node.op_type.removeprefix("Fused") in FLOAT_KERNELS}


def with_options(provider: str, path: Path) -> Any:
    """The provider as a session takes it: TensorRT computes quantized files in int8 only if an option says so."""
    from src.deploy.onnx_tensorrt import is_quantized

    return (provider, {"trt_int8_enable": is_quantized(path)}) if provider == TENSORRT else provider


def run_with(loaded: Any) -> Session:
    """A function from the only input of an ONNX Runtime session to its only output."""
    image, logits = loaded.get_inputs()[0].name, loaded.get_outputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        result: np.ndarray = loaded.run([logits], {image: images})[0]
        return result

    return run


def session(
    path: Path,
    threads: int,
    providers: Sequence[Any],
    *,
    profile: str | None = None,
    optimized: str | None = None,
    optimize: bool = True,
) -> Any:
    """Load the file for the first of ``providers``; the others run what that one lacks.

    ONNX Runtime itself falls back to the CPU without a word if a provider is missing or cannot start.

    Args:
        path: The ONNX file.
        threads: Number of threads of one operator.
        providers: Names of execution providers, or pairs of a name and its options.
        profile: Path of the profile that is written, without its ending; None writes none.
        optimized: Path at which the graph is written as it is run; None writes none.
        optimize: Whether operators are fused; if not, a quantized file is computed in floats, exactly as it is written.

    Raises:
        InputError: The file cannot be loaded, or the first provider is missing or cannot start.
    """
    import onnxruntime

    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise InputError(f"the installed ONNX Runtime has no {wanted}; it has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # By itself ONNX Runtime may multiply a dequantized weight with rounded (int8) activations; 1 is float32.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if optimized is not None:
        options.optimized_model_filepath = optimized
    # Without VNNI, x86 kernels add pairs of products u8 x s8 in 16 bits and cut them off; 1 takes exact, slower kernels
    # for weights beyond -64 … 64, but ONNX Runtime 1.31 loads not every file with it.
    for exact, severity in (("1", 4), ("0", 3)):
        options.add_session_config_entry("session.x64quantprecision", exact)
        options.log_severity_level = severity
        try:
            loaded = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
            break
        except Exception as error:  # its exceptions have no common public base class
            if exact == "0":
                raise InputError(f"{path} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
    if wanted not in loaded.get_providers():
        raise InputError(f"{wanted} is installed but cannot start here: a library of its own or a device is missing")
    return loaded
