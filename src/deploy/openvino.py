"""OpenVINO on the CPU: its own two-part format, made from the ONNX file."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.contracts import Graph, GraphNode, GraphTensor, InputError, ModelCard, Role, Session, StoredWeight
from src.deploy import cards

if TYPE_CHECKING:
    from torch import Tensor, nn

STORED = ("float32", "float16")
INFERENCE = {"float32": "f32", "bf16": "bf16"}
PROFILED_RUNS = 50
WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
ROLES = {
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), Role.MOVING),
    **dict.fromkeys(("Relu", "Clamp", "Sigmoid", "HSwish", "Tanh", "Add", "Multiply"), Role.IN_PLACE),
    "MaxPool": Role.POOLING,
    "FakeQuantize": Role.QUANTIZE,
}


class OpenVino:
    """Writes ``.xml`` and ``.bin`` and runs them in OpenVINO.

    Left to itself OpenVINO stores weights as float16 and computes in bf16 where the processor can; here both are said,
    so that float32 means float32.

    Args:
        stored: ``float32`` or ``float16`` weights in the file.
        inference: ``float32`` or ``bf16`` arithmetic for what is not int8.
    """

    runtime = "openvino"
    ending = "xml"
    beside = ("bin",)
    extra = "openvino"
    free_batch = True

    def __init__(self, *, stored: str, inference: str) -> None:
        if stored not in STORED:
            raise ValueError(f"stored must be one of {', '.join(STORED)}, and is {stored}")
        if inference not in INFERENCE:
            raise ValueError(f"inference must be one of {', '.join(INFERENCE)}, and is {inference}")
        self.stored, self.inference = stored, inference

    def precision(self, integer: bool) -> str:
        kept = "" if self.stored == "float32" else f", {self.stored} stored"
        computed = (
            self.inference if not integer else "int8" if self.inference == "float32" else f"int8 and {self.inference}"
        )
        return computed + kept

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        import openvino as ov

        from src.deploy.onnx_export import export_onnx

        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
            source = Path(folder) / "model.onnx"
            export_onnx(model, example_input, source, card, weights, integer_biases=False)
            converted = ov.convert_model(str(source))
            for key, value in cards.to_text(card).items():
                converted.set_rt_info(value, ["dnn_compression", key])
            _share_limits(converted)
            written = Path(folder) / path.name
            ov.save_model(converted, str(written), compress_to_fp16=self.stored == "float16")
            written.write_text(_shortened(written.read_text()))
            values = path.with_suffix(".bin")
            os.replace(written.with_suffix(".bin"), values)
            os.replace(written, path)
        return path, values

    def load(self, path: Path, threads: int = 1) -> Session:
        """Raises InputError where the file is no OpenVINO file."""
        core, model = _read(path)
        compiled = core.compile_model(model, "CPU", self._settings(threads))
        computes = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if computes != INFERENCE[self.inference]:
            raise InputError(f"{self.inference} is asked of OpenVINO, and on this processor it computes in {computes}")
        request = compiled.create_infer_request()

        def run(images: np.ndarray) -> np.ndarray:
            return np.array(request.infer([images])[0])

        return run

    def operators(self, path: Path, image: np.ndarray, threads: int) -> list[tuple[str, str, float]]:
        """Name, kind and median milliseconds of each operator as OpenVINO times it, the longest first."""
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
        medians = [(*key, float(np.median(took))) for key, took in times.items()]
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
    """Let a quantizer read equal limits of its input and its output from one constant, in place."""
    for node in model.get_ops():
        if node.get_type_name() != "FakeQuantize":
            continue
        for into, out in ((1, 3), (2, 4)):
            low, high = (node.input_value(at).get_node() for at in (into, out))
            constants = low.get_type_name() == high.get_type_name() == "Constant"
            if constants and low.data.shape == high.data.shape and np.array_equal(low.data, high.data):
                node.input(out).replace_source_output(node.input_value(into))


def _shortened(text: str) -> str:
    """The graph's text without what no reader of OpenVINO's asks for: layout, computed shapes, its own history."""
    text = re.sub(r">\s+<", "><", text)
    text = re.sub(r"<dim>[^<]*</dim>", "", text)
    text = re.sub(r"<input>.*?</input>", lambda ports: re.sub(r' precision="\w+"', "", ports[0]), text)
    text = re.sub(r"<(framework|conversion_parameters)>.*?</\1>", "", text)
    return text.replace("></port>", "/>").replace(" />", "/>")


def _read(path: Path) -> tuple[Any, Any]:
    import openvino as ov

    if not path.is_file():
        raise InputError(f"{path} cannot be loaded by OpenVINO: it is not there")
    if not path.read_bytes()[:200].lstrip().startswith((b"<?xml", b"<net")):
        raise InputError(f"{path} cannot be loaded by OpenVINO: it is no graph of its")
    if not path.with_suffix(".bin").is_file():
        raise InputError(f"{path} cannot be loaded by OpenVINO: its {path.with_suffix('.bin').name} is not beside it")
    core = ov.Core()
    try:
        return core, core.read_model(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be loaded by OpenVINO: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    """What is wrong, after the lines that say where in OpenVINO's source it was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from ", "Check '", "Converting "))]
    return next(iter([*said, *lines]), type(error).__name__)


def _graph(model: Any) -> Graph:
    """Nodes and tensors of a model of static shape; a weight is the stored constant, whatever converts it."""
    tensors: dict[str, GraphTensor] = {}
    nodes: list[GraphNode] = []
    stored: dict[str, str] = {}  # what only constants feed -> the first constant it comes from
    weights: list[str] = []
    kinds: dict[str, str] = {}
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        inputs = tuple(_name(value.get_source_output()) for value in operation.inputs())
        outputs = tuple(_name(value) for value in operation.outputs())
        for name, value in zip(outputs, operation.outputs(), strict=True):
            elements = math.prod(value.get_shape())
            nonzero = int(np.count_nonzero(operation.data)) if kind == "Constant" else None
            kinds[name] = kind
            tensors[name] = GraphTensor(elements, math.ceil(elements * value.get_element_type().bitwidth / 8), nonzero)
        if kind == "Constant":
            stored[outputs[0]] = outputs[0]
        elif kind not in ("Parameter", "Result"):
            if all(name in stored for name in inputs):
                stored[outputs[0]] = stored[inputs[0]]
            elif kind in WEIGHTED or (kind == "Add" and kinds[inputs[0]] in WEIGHTED):
                weights += [stored[name] for name in inputs if name in stored]
            role = ROLES.get(kind, Role.COMPUTE)
            nodes.append(GraphNode(inputs, outputs, role, _macs(operation, kind), operation.get_friendly_name()))
    return Graph(
        tuple(nodes),
        tensors,
        tuple(dict.fromkeys(weights)),
        tuple(_name(parameter.output(0)) for parameter in model.get_parameters()),
        tuple(_name(result.input(0).get_source_output()) for result in model.get_results()),
    )


def _name(output: Any) -> str:
    return f"{output.get_node().get_friendly_name()}:{output.get_index()}"


def _macs(operation: Any, kind: str) -> int:
    if kind in ("Convolution", "GroupConvolution"):
        kernel = list(operation.input(1).get_shape())
        return math.prod(operation.output(0).get_shape()) * math.prod(kernel[1 if kind == "Convolution" else 2 :])
    if kind == "MatMul":
        inner = list(operation.input(0).get_shape())[-2 if operation.get_attributes()["transpose_a"] else -1]
        return math.prod(operation.output(0).get_shape()) * int(inner)
    return 0
