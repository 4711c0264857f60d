"""ONNX files, float and INT8, with integer weights really stored as integers."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from src.contracts import Graph, GraphNode, GraphTensor, ModelCard, Role, StoredWeight
from src.deploy import cards

# Opset 13 has QuantizeLinear per channel and is what a Jetson Nano's onnxruntime 1.10 and TensorRT 8.2 read.
OPSET = 13
MADE = ("_output_0", "_bias", "_moved")  # what exporters and the functions here call tensors that no module names
ROLES = {
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout"), Role.MOVING),
    **dict.fromkeys(("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"), Role.IN_PLACE),
    **dict.fromkeys(("Add", "Mul", "BatchNormalization"), Role.IN_PLACE),
    **dict.fromkeys(("MaxPool",), Role.POOLING),
    "QuantizeLinear": Role.QUANTIZE,
    "DequantizeLinear": Role.DEQUANTIZE,
}


def export_onnx(
    model: nn.Module,
    example_input: Tensor,
    path: Path,
    card: ModelCard,
    weights: Mapping[str, StoredWeight],
    *,
    integer_biases: bool = True,
) -> None:
    """Write ``model`` to ``path``, batch size free, its card in the file's metadata.

    Args:
        model: In eval mode; quantizers are torch's fake-quantize operators.
        example_input: ``[1, c, h, w]``.
        path: Written whole or not at all.
        weights: To be stored as integers behind a DequantizeLinear, by parameter name.
        integer_biases: Write what ONNX Runtime needs to fuse a whole quantized network; OpenVINO fuses without.
    """
    part = path.with_name(path.name + ".part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (example_input,),
            str(part),
            opset_version=OPSET,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    written = onnx.load(str(part))
    store_integer_weights(written)
    dequantize_stored_weights(written, weights)
    if integer_biases:
        carry_quantization(written)
        store_integer_biases(written)
    shorten_names(written)
    helper.set_model_props(written, cards.to_text(card))
    onnx.checker.check_model(written)
    onnx.save(written, str(part))
    os.replace(part, path)
    logging.getLogger(__name__).info("wrote %s", path)


def store_integer_weights(model: onnx.ModelProto) -> None:
    """Replace each float initializer behind a QuantizeLinear by the integers that this would give, in place."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Identity" and node.input[0] in constants:
            copied = onnx.TensorProto()
            copied.CopyFrom(constants[node.input[0]])
            copied.name = node.output[0]
            constants[copied.name] = copied
            graph.initializer.append(copied)
            graph.node.remove(node)
    for node in list(graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] not in constants:
            continue
        weight, scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        along = [1] * weight.ndim
        if scale.ndim:
            along[axis] = -1
            scale, zero_point = scale.reshape(along), zero_point.reshape(along)
        limits = np.iinfo(zero_point.dtype)
        steps = np.rint(weight / scale) + zero_point
        integers = np.clip(steps, limits.min, limits.max).astype(zero_point.dtype)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(integers), node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in list(graph.initializer):
        if tensor.name not in used:
            graph.initializer.remove(tensor)


def dequantize_stored_weights(model: onnx.ModelProto, weights: Mapping[str, StoredWeight]) -> None:
    """Replace each float initializer named in ``weights`` by 8-bit integers and a DequantizeLinear, in place.

    Runtimes make floats of them when the file is loaded: it is smaller, not faster. Opset 13 has no integers of 16
    bits; weights of more than 8 bits stay floats.
    """
    graph = model.graph
    ahead: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        stored, turned = weights.get(tensor.name), False
        if stored is None and tensor.name.startswith("onnx::MatMul"):  # a dense layer on more than two dimensions
            stored, turned = _turned(numpy_helper.to_array(tensor), weights), True
        if stored is None or stored.bits > 8:
            continue
        kind = np.int8 if int(stored.integers.min()) < 0 or int(stored.zero_point.min()) < 0 else np.uint8
        parts: dict[str, np.ndarray] = {
            f"{tensor.name}_integers": (stored.integers.T if turned else stored.integers).numpy().astype(kind),
            f"{tensor.name}_scale": stored.scale.numpy().astype(np.float32),
            f"{tensor.name}_zero_point": stored.zero_point.numpy().astype(kind),
        }
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in parts.items())
        ahead.append(helper.make_node("DequantizeLinear", list(parts), [tensor.name], axis=int(turned)))
        graph.initializer.remove(tensor)
    ordered = [*ahead, *graph.node]
    del graph.node[:]
    graph.node.extend(ordered)


def _turned(array: np.ndarray, weights: Mapping[str, StoredWeight]) -> StoredWeight | None:
    """The weight whose values, transposed, are ``array``."""
    for stored in weights.values():
        if stored.integers.dim() == 2 and stored.integers.T.shape == array.shape:
            along = stored.scale.dim() * [-1, 1]
            scale, zero_point = stored.scale.view(along), stored.zero_point.view(along)
            if np.array_equal(((stored.integers - zero_point) * scale).T.numpy(), array):
                return stored
    return None


def carry_quantization(model: onnx.ModelProto) -> None:
    """Quantize again, with the same scale, what was only moved or max-pooled since it was dequantized, in place.

    The values are on the grid already, so nothing changes; but runtimes fuse an operation into integers only where a
    dequantization stands right before it, and ONNX Runtime carries none past a Flatten by itself.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    grids: dict[str, list[str]] = {}
    ordered: list[onnx.NodeProto] = []
    for node in list(graph.node):
        ordered.append(node)
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            grids[node.output[0]] = list(node.input[1:])
        elif ROLES.get(node.op_type) in (Role.MOVING, Role.POOLING) and node.input[0] in grids:
            name, grid = node.output[0], grids[node.input[0]]
            node.output[0] = f"{name}_moved"
            ordered.append(helper.make_node("QuantizeLinear", [f"{name}_moved", *grid], [f"{name}_quantized"]))
            ordered.append(helper.make_node("DequantizeLinear", [f"{name}_quantized", *grid], [name]))
            grids[name] = grid
    del graph.node[:]
    graph.node.extend(ordered)


def store_integer_biases(model: onnx.ModelProto) -> None:
    """Store the bias of each quantized operation as int32 in units of input scale x weight scale, in place.

    Runtimes add it to their int32 sums; with a float bias ONNX Runtime leaves a Gemm in floats.

    Paper: Jacob et al. 2018, arXiv:1712.05877, section 2.4.
    """
    graph = model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    ordered: list[onnx.NodeProto] = []
    for node in list(graph.node):
        sources = [made_by.get(name) for name in node.input[:2]]
        dequantized = all(source is not None and source.op_type == "DequantizeLinear" for source in sources)
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 3 and node.input[2] in arrays and dequantized:
            bias = arrays[node.input[2]]
            scale = np.ones(bias.shape, np.float32)
            for source in sources:
                scale = scale * arrays[source.input[1]].reshape(-1)  # type: ignore[union-attr]
            integers = np.clip(np.rint(bias / scale.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
            names = [f"{node.output[0]}_bias{part}" for part in ("", "_scale", "_float")]
            graph.initializer.append(numpy_helper.from_array(integers, names[0]))
            graph.initializer.append(numpy_helper.from_array(scale, names[1]))
            ordered.append(helper.make_node("DequantizeLinear", names[:2], names[2:], axis=0))
            node.input[2] = names[2]
        ordered.append(node)
    del graph.node[:]
    graph.node.extend(ordered)
    used = {name for node in graph.node for name in node.input}
    for tensor in list(graph.initializer):
        if tensor.name not in used:
            graph.initializer.remove(tensor)


def shorten_names(model: onnx.ModelProto) -> None:
    """Give what quantization added short names, in place: long ones take more bytes than a small network's biases."""
    graph = model.graph
    short: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
            for name in [*node.input[1:], *node.output, *(n for n in node.input[:1] if n.endswith(MADE))]:
                short.setdefault(name, f"q{len(short)}")
    for value in (*graph.input, *graph.output):
        short.pop(value.name, None)
    for node in graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)


def read_graph(path: Path) -> Graph:
    """The file's operations and tensors at batch 1; shapes are those of a run, so none has to be inferred."""
    graph = onnx.load(str(path)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    activations = _run_once(path)
    for node in graph.node:
        if node.op_type == "Shape":  # a shape is known before anything runs
            constants[node.output[0]] = activations[node.output[0]]
    tensors = {name: GraphTensor(array.size, array.nbytes) for name, array in activations.items()}
    for name, array in constants.items():
        tensors[name] = GraphTensor(array.size, array.nbytes, int(np.count_nonzero(array)))
    shapes = {name: array.shape for name, array in {**activations, **constants}.items()}
    nodes = [
        GraphNode(tuple(node.input), tuple(node.output), ROLES.get(node.op_type, Role.COMPUTE), _macs(node, shapes))
        for node in graph.node
        if node.op_type not in ("Constant", "Shape")
    ]
    quantizing = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    service = {name for node in quantizing for name in node.input[1:]}
    weights = [t.name for t in graph.initializer if t.data_type != onnx.TensorProto.INT64 and t.name not in service]
    inputs = [value.name for value in graph.input if value.name not in constants]
    return Graph(tuple(nodes), tensors, tuple(weights), tuple(inputs), tuple(value.name for value in graph.output))


def _run_once(path: Path) -> dict[str, np.ndarray]:
    """Every activation of one black image, by name, the input's included."""
    import onnxruntime

    model = onnx.load(str(path))
    image = model.graph.input[0]
    shape = [1, *(dim.dim_value for dim in image.type.tensor_type.shape.dim[1:])]
    named = {value.name for value in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made if name not in named)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    zeros = np.zeros(shape, np.float32)
    names = [output.name for output in session.get_outputs()]
    return {image.name: zeros, **dict(zip(names, session.run(names, {image.name: zeros}), strict=True))}


def _macs(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    if node.op_type == "Conv":
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return 0
