"""How an ONNX file stores weights in fewer bytes: as 8-bit integers or as float16."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from src.contracts import StoredWeight
from src.deploy.onnx_graph import quantization_parameters

MADE = ("_output_0", "_bias", "_moved")  # endings of the tensors that come from no module of the network
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def store_integer_weights(model: onnx.ModelProto) -> None:
    """Replace each float weight that a QuantizeLinear reads by the integers that it would give, in place."""
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
    """Replace each float weight named in ``weights`` by 8-bit integers and a DequantizeLinear, in place.

    Runtimes dequantize them when they load the file, so it is smaller and not faster. Weights of more than 8 bits stay
    floats, because opset 13 has no integers of 16 bits.
    """
    graph = model.graph
    ahead: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        stored, transposed = weights.get(tensor.name), False
        if stored is None and tensor.name.startswith("onnx::MatMul"):  # a dense layer on more than two dimensions
            stored, transposed = _transposed(numpy_helper.to_array(tensor), weights), True
        if stored is None or stored.bits > 8:
            continue
        kind = np.int8 if int(stored.integers.min()) < 0 or int(stored.zero_point.min()) < 0 else np.uint8
        parts: dict[str, np.ndarray] = {
            f"{tensor.name}_integers": (stored.integers.T if transposed else stored.integers).numpy().astype(kind),
            f"{tensor.name}_scale": stored.scale.numpy().astype(np.float32),
            f"{tensor.name}_zero_point": stored.zero_point.numpy().astype(kind),
        }
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in parts.items())
        ahead.append(helper.make_node("DequantizeLinear", list(parts), [tensor.name], axis=int(transposed)))
        graph.initializer.remove(tensor)
    ordered = [*ahead, *graph.node]
    del graph.node[:]
    graph.node.extend(ordered)


def _transposed(array: np.ndarray, weights: Mapping[str, StoredWeight]) -> StoredWeight | None:
    """Find the weight whose values, transposed, are ``array``; None if there is none."""
    for stored in weights.values():
        same_shape = stored.integers.dim() == 2 and stored.integers.T.shape == array.shape
        if same_shape and np.array_equal(stored.values().T.numpy(), array):
            return stored
    return None


def shorten_names(model: onnx.ModelProto) -> None:
    """Give the tensors that quantization added short names, in place.

    Long names take more bytes than the biases of a small network.
    """
    graph = model.graph
    short: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in QUANTIZERS:
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


def store_halves(model: onnx.ModelProto) -> None:
    """Store float weights and biases as float16 behind a Cast, in place; runtimes widen them when they load the file.

    Scales stay float32, as do arrays with values beyond float16 and arrays so small that the Cast takes as many bytes
    as it saves.
    """
    graph = model.graph
    scales = quantization_parameters(graph)
    ahead: list[onnx.NodeProto] = []
    for tensor in list(graph.initializer):
        array = numpy_helper.to_array(tensor)
        fits = array.dtype == np.float32 and array.size >= 64 and tensor.name not in scales
        if not fits or np.abs(array).max() > np.finfo(np.float16).max:
            continue
        half = f"{tensor.name}_half"
        ahead.append(helper.make_node("Cast", [half], [tensor.name], to=onnx.TensorProto.FLOAT))
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float16), half))
        graph.initializer.remove(tensor)
    ordered = [*ahead, *graph.node]
    del graph.node[:]
    graph.node.extend(ordered)
