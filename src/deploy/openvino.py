"""The target OpenVINO on the CPU: a format of two files, converted from an ONNX file."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.contracts import (
    Graph,
    GraphNode,
    GraphTensor,
    InputError,
    ModelCard,
    Precision,
    Role,
    Runtime,
    Session,
    StoredWeight,
    Target,
)
from src.contracts.output_quantizers import without_output_quantizers
from src.deploy import cards, counting
from src.deploy.number_formats import checked_storage, halves
from src.files.writing import replacing, write_text

if TYPE_CHECKING:
    from torch import Tensor, nn

INFERENCE = {"float32": "f32", "bf16": "bf16"}
PROFILED_RUNS = 50
RECURRENT = ("GRUSequence", "LSTMSequence", "RNNSequence", "GRUCell", "LSTMCell", "RNNCell")
WEIGHTED = (
    *("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"),
    *("MatMul", "Einsum", *RECURRENT),
)
SELECTING = ("Gather", "GatherElements", "GatherND", "Concat")  # their output is a part of their input, or contains it
SETTINGS = ("FakeQuantize", "Interpolate")  # their constants are no weights
ROLES = {
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), Role.MOVING),
    **dict.fromkeys(("Relu", "Clamp", "Sigmoid", "HSwish", "Tanh", "Add", "Multiply"), Role.IN_PLACE),
    **dict.fromkeys(("MaxPool", "Split", "VariadicSplit", "StridedSlice", "Slice"), Role.POOLING),
    **dict.fromkeys(("Transpose", "Concat", "Pad", "Gather"), Role.POOLING),
    "FakeQuantize": Role.QUANTIZE,
}


class OpenVino(Target):
    """Writes ``.xml`` and ``.bin`` and runs them in OpenVINO.

    By default OpenVINO stores weights as float16 and computes in bf16 if the processor can; here both are set, so that
    float32 means float32.

    Args:
        stored: Number format of float weights in the file: ``float32`` or ``float16``.
        inference: Number format of the arithmetic that is not in int8: ``float32`` or ``bf16``.
    """

    ending = "xml"
    beside = ("bin",)
    extra = "openvino"
    runtime = Runtime("openvino")
    unquantized_outputs = ("convolution", "product")

    def __init__(self, *, stored: str, inference: str) -> None:
        if inference not in INFERENCE:
            raise ValueError(f"inference must be one of {', '.join(INFERENCE)}, and is {inference}")
        self.stored, self.inference = checked_storage(stored), inference

    def precision(self, integer: bool) -> Precision:
        floats = () if integer and self.inference == "float32" else (self.inference,)
        return Precision((*(("int8",) if integer else ()), *floats), halves(self.stored))

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        import openvino as ov

        from src.deploy.onnx_export import export_onnx

        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
            source = Path(folder) / "model.onnx"
            with without_output_quantizers(model, self.unquantized_outputs):
                export_onnx(model, example_input, source, card, weights, integer_biases=False)
            converted = ov.convert_model(str(source))
            for key, value in cards.to_text(card).items():
                converted.set_rt_info(value, ["dnn_compression", key])
            _share_limits(converted)
            graph = Path(folder) / path.name
            ov.save_model(converted, str(graph), compress_to_fp16=self.stored == "float16")
            values = path.with_suffix(".bin")
            with replacing(values) as part:
                graph.with_suffix(".bin").rename(part)
            write_text(path, _shortened(graph.read_text(encoding="utf-8")))
        return path, values

    def load(self, path: Path, threads: int = 1) -> Session:
        """Load the file; raise InputError if it is no OpenVINO file, or the processor cannot compute as it should."""
        core, model = _read(path)
        compiled = core.compile_model(model, "CPU", self._settings(threads))
        computes = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if computes != INFERENCE[self.inference]:
            raise InputError(
                f"OpenVINO is to compute in {self.inference}, and computes in {computes} on this processor"
            )
        request = compiled.create_infer_request()

        def run(images: np.ndarray) -> np.ndarray:
            return np.array(request.infer([images])[0])

        return run

    def operators(self, path: Path, image: np.ndarray, threads: int) -> list[tuple[str, str, float]]:
        """Name, kind and median milliseconds of each operator by OpenVINO's own profiler, the longest first."""
        import openvino as ov

        core, model = _read(path)
        request = core.compile_model(
            model, "CPU", {**self._settings(threads), "PERF_COUNT": True}
        ).create_infer_request()
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(PROFILED_RUNS):
            request.infer([image])
            for node in request.get_profiling_info():
                if node.status == ov.ProfilingInfo.Status.EXECUTED:
                    times.setdefault((node.node_name, node.node_type), []).append(1000 * node.real_time.total_seconds())
        medians = [(*key, float(np.median(taken))) for key, taken in times.items()]
        return sorted(medians, key=lambda median: -median[2])

    def _settings(self, threads: int) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": INFERENCE[self.inference],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else dense layers of stored integers compute in int8
            "PERFORMANCE_HINT": "LATENCY",
        }

    def graph(self, path: Path) -> Graph:
        model = _read(path)[1]
        model.reshape([1, *[dim.get_length() for dim in list(model.inputs[0].partial_shape)[1:]]])
        return _graph(model)

    def read_card(self, path: Path) -> ModelCard:
        model = _read(path)[1]
        places = {key: ["dnn_compression", key] for key in cards.KEYS}
        text = {key: model.get_rt_info(at).astype(str) for key, at in places.items() if model.has_rt_info(at)}
        return cards.from_text(text, path)


def _share_limits(model: Any) -> None:
    """Let each quantizer whose input and output limits are equal read both from one constant, in place."""
    for node in model.get_ops():
        if node.get_type_name() != "FakeQuantize":
            continue
        for into, out in ((1, 3), (2, 4)):
            low, high = (node.input_value(at).get_node() for at in (into, out))
            constants = low.get_type_name() == high.get_type_name() == "Constant"
            if constants and low.data.shape == high.data.shape and np.array_equal(low.data, high.data):
                node.input(out).replace_source_output(node.input_value(into))


def _shortened(text: str) -> str:
    """The graph's text without what OpenVINO does not read: layout, shapes that it computes, how it was converted."""
    text = re.sub(r">\s+<", "><", text)
    text = re.sub(r"<dim>[^<]*</dim>", "", text)
    text = re.sub(r"<input>.*?</input>", lambda ports: re.sub(r' precision="\w+"', "", ports[0]), text)
    text = re.sub(r"<(framework|conversion_parameters)>.*?</\1>", "", text)
    return text.replace("></port>", "/>").replace(" />", "/>")


def _read(path: Path) -> tuple[Any, Any]:
    """OpenVINO's core and the model of the file; raise InputError if it is no OpenVINO file."""
    import openvino as ov

    if not path.is_file():
        raise InputError(f"{path} cannot be loaded by OpenVINO: there is no such file")
    if not path.read_bytes()[:200].lstrip().startswith((b"<?xml", b"<net")):
        raise InputError(f"{path} cannot be loaded by OpenVINO: it is no OpenVINO graph")
    if not path.with_suffix(".bin").is_file():
        raise InputError(f"{path} cannot be loaded by OpenVINO: its {path.with_suffix('.bin').name} is not beside it")
    core = ov.Core()
    try:
        return core, core.read_model(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be loaded by OpenVINO: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    """The first line of the message that is no place in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from ", "Check '", "Converting "))]
    return next(iter([*reasons, *lines]), type(error).__name__)


def _graph(model: Any) -> Graph:
    """Nodes and tensors of a model of static shape; a weight counts as the file stores it, before any conversion."""
    tensors: dict[str, GraphTensor] = {}
    nodes: list[GraphNode] = []
    stored: dict[str, str] = {}  # tensor that depends on constants alone -> the first of these constants
    floats: set[str] = set()  # constants that may be weights
    weights: list[str] = []
    kinds: dict[str, str] = {}
    kept: dict[str, list[int]] = {}  # shapes
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        inputs = tuple(_name(value.get_source_output()) for value in operation.inputs())
        outputs = tuple(_name(value) for value in operation.outputs())
        for name, value in zip(outputs, operation.outputs(), strict=True):
            elements = math.prod(value.get_shape())
            nonzero = int(np.count_nonzero(operation.data)) if kind == "Constant" else None
            if kind == "ShapeOf":  # its value is known before an image comes
                nonzero = elements
            kinds[name], kept[name] = kind, list(value.get_shape())
            tensors[name] = GraphTensor(elements, math.ceil(elements * value.get_element_type().bitwidth / 8), nonzero)
        if kind == "Constant":
            stored[outputs[0]] = outputs[0]
            if tensors[outputs[0]].elements > 1 and operation.get_element_type().is_real():
                floats.add(outputs[0])
        elif kind == "ShapeOf":
            stored[outputs[0]] = outputs[0]
        elif kind not in ("Parameter", "Result"):
            if all(name in stored for name in inputs):
                stored[outputs[0]] = stored[inputs[0]]
            elif kind in RECURRENT:  # the states that it starts from and the lengths of its inputs are no weights
                weights += [stored[name] for name in inputs[-3:] if name in stored]
            elif kind in WEIGHTED or (kind == "Add" and kinds[inputs[0]] in WEIGHTED):
                weights += [stored[name] for name in inputs if name in stored]
            elif kind not in SETTINGS:
                weights += [stored[name] for name in inputs if stored.get(name) in floats]
            unknown = [name for name in inputs if stored.get(name) in floats and outputs[0] not in stored]
            shapes = [] if kind in (*SELECTING, *SETTINGS) else [kept[name] for name in unknown]
            macs = _macs(operation, kind, shapes)
            role = ROLES.get(kind, Role.COMPUTE)
            nodes.append(GraphNode(inputs, outputs, role, macs, operation.get_friendly_name()))
    return Graph(
        tuple(nodes),
        tensors,
        tuple(dict.fromkeys(weights)),
        tuple(_name(parameter.output(0)) for parameter in model.get_parameters()),
        tuple(_name(result.input(0).get_source_output()) for result in model.get_results()),
    )


def _name(output: Any) -> str:
    return f"{output.get_node().get_friendly_name()}:{output.get_index()}"


def _macs(operation: Any, kind: str, weights: Sequence[Sequence[int]]) -> int | None:
    """Multiply-accumulates of an operation; None if it has ``weights`` and is of an unknown kind."""
    given = [list(value.get_shape()) for value in operation.inputs()]
    made = list(operation.output(0).get_shape())
    if kind == "Convolution":
        return counting.convolution(made, given[1])
    if kind == "GroupConvolution":  # its kernel is [groups, out per group, in per group, *sides]
        return counting.convolution(made, given[1][1:])
    if kind == "ConvolutionBackpropData":
        return counting.transposed_convolution(given[0], given[1])
    if kind == "GroupConvolutionBackpropData":
        return counting.transposed_convolution(given[0], given[1][1:])
    if kind == "MatMul":
        return counting.product(made, given[0][-2 if operation.get_attributes()["transpose_a"] else -1])
    if kind in RECURRENT:
        return counting.recurrence(math.prod(given[0][:-1]), given[-3:-1])
    if kind == "Einsum":
        return counting.einsum(operation.get_attributes()["equation"], given)
    if kind == "ScaledDotProductAttention":
        return counting.attention(*given[:3])
    return 0 if all(counting.is_spread(shape, made) for shape in weights) else None
