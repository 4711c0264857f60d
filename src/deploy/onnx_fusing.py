"""Quantized ONNX graphs, rewritten so that runtimes compute them in integers; no result changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from src.contracts import Role
from src.deploy.onnx_graph import ROLES


def fuse(model: onnx.ModelProto) -> None:
    """Write what ONNX Runtime computes in integers on a CPU, 1.10 (2021) as well as today's, in place."""
    level_channels(model)
    drop_clamps(model, ("Clip", "Relu"))
    use_unsigned_activations(model)
    carry_quantization(model)
    use_integer_products(model)
    store_integer_biases(model)


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Every stored tensor and every Constant's value, by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def readers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor; the graph's outputs are read by an empty node."""
    readers: dict[str, list[onnx.NodeProto]] = {value.name: [onnx.NodeProto()] for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make ``nodes`` the graph's, and drop the stored tensors and dequantizations that none of them reads."""
    kept = list(nodes)
    read = Counter([name for node in kept for name in node.input] + [value.name for value in graph.output])
    kept = [node for node in kept if node.op_type not in ("DequantizeLinear", "Constant") or read[node.output[0]]]
    read = Counter(name for node in kept for name in node.input)
    stored = [tensor for tensor in graph.initializer if read[tensor.name]]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(stored)


def store(graph: onnx.GraphProto, name: str, array: np.ndarray) -> str:
    """Add a stored tensor; returns its name."""
    graph.initializer.append(numpy_helper.from_array(np.array(array, order="C"), name))
    return name


def _saturates(quantize: onnx.NodeProto, low: float, high: float, constants: dict[str, np.ndarray]) -> bool:
    """Whether a QuantizeLinear cuts at ``low`` and ``high`` or before, in every channel."""
    scale, zero_point = (constants[name].astype(np.float64) for name in quantize.input[1:3])
    limits = np.iinfo(constants[quantize.input[2]].dtype)
    above = np.isinf(high) or np.all(np.rint(high / scale) + zero_point >= limits.max)
    return bool(above and np.all(np.rint(low / scale) + zero_point <= limits.min))


def clamp_limits(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> tuple[float, float]:
    """What a Relu or Clip cuts at; infinite where it does not, or where that is computed."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    low, high = ([*node.input[1:], "", ""])[:2]
    return float(constants.get(low, np.array(-np.inf))), float(constants.get(high, np.array(np.inf)))


def drop_clamps(model: onnx.ModelProto, kinds: tuple[str, ...]) -> None:
    """Remove each Relu or Clip that a QuantizeLinear alone reads and whose limits it saturates at anyway, in place."""
    graph = model.graph
    constants, readers = constants_of(graph), readers_of(graph)
    kept = []
    for node in graph.node:
        after = readers.get(node.output[0], [])
        if (
            node.op_type in kinds
            and [reader.op_type for reader in after] == ["QuantizeLinear"]
            and _saturates(after[0], *clamp_limits(node, constants), constants)
        ):
            after[0].input[0] = node.input[0]
        else:
            kept.append(node)
    replace_nodes(graph, kept)


def level_channels(model: onnx.ModelProto) -> None:
    """Give an activation one scale instead of one a channel where only depthwise convolutions read it, in place.

    No runtime computes in integers with the latter. What makes the activation is scaled by ``s / s_c`` in each channel
    and the depthwise kernel by ``s_c / s``: scales change, integers do not. A Relu between allows it; a Clip becomes
    one where the quantization saturates at its upper limit.

    Paper: Nagel et al. 2019, arXiv:1906.04721, section 4.1 (with the scales that are there, not chosen ones).
    """
    graph = model.graph
    constants, readers = constants_of(graph), readers_of(graph)
    made_by = {name: node for node in graph.node for name in node.output}
    for quantize in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        scale = constants[quantize.input[1]]
        maker, clamp = made_by.get(quantize.input[0]), None
        if maker is not None and maker.op_type in ("Relu", "Clip"):
            maker, clamp = made_by.get(maker.input[0]), maker
        backs = readers[quantize.output[0]]
        users = [user for back in backs for user in readers.get(back.output[0], [])]
        if (
            scale.ndim == 0
            or maker is None
            or maker.op_type != "Conv"
            or any(len(readers[node.output[0]]) > 1 for node in (maker, clamp) if node is not None)
            or any(back.op_type != "DequantizeLinear" for back in backs)
            or not users
            or any(not _is_depthwise(user, len(scale)) for user in users)
            or np.any(constants[quantize.input[2]] != constants[quantize.input[2]][0])
        ):
            continue
        if clamp is not None and clamp.op_type == "Clip":
            low, high = clamp_limits(clamp, constants)
            if low != 0 or not _saturates(quantize, low, high, constants):
                continue
            clamp.op_type = "Relu"
            del clamp.input[1:], clamp.attribute[:]
        level = scale.max()
        _scale_outputs(graph, maker, level / scale, made_by, constants, and_bias=True)
        for user in users:
            _scale_outputs(graph, user, scale / level, made_by, constants, and_bias=False)
        grid = [
            store(graph, f"{quantize.output[0]}_scale", np.array(level, np.float32)),
            store(graph, f"{quantize.output[0]}_zero_point", constants[quantize.input[2]][0]),
        ]
        for node in (quantize, *backs):
            node.input[1:] = grid
            del node.attribute[:]
    replace_nodes(graph, graph.node)


def _is_depthwise(node: onnx.NodeProto, channels: int) -> bool:
    return node.op_type == "Conv" and any(a.name == "group" and a.i == channels for a in node.attribute)


def _scale_outputs(
    graph: onnx.GraphProto,
    conv: onnx.NodeProto,
    factor: np.ndarray,
    made_by: dict[str, onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    and_bias: bool,
) -> None:
    """Multiply what a convolution gives by ``factor [out]``; a depthwise one may have several outputs a channel."""
    source = made_by.get(conv.input[1])
    weight = constants[source.input[0] if source else conv.input[1]]
    factor = np.repeat(factor, len(weight) // len(factor)).astype(np.float32)
    if source is not None:
        scale = np.broadcast_to(constants[source.input[1]], factor.shape) * factor
        zero_point = np.broadcast_to(constants[source.input[2]], factor.shape)
        for at, array in ((1, scale), (2, zero_point)):
            constants[f"{conv.output[0]}_{at}"] = array  # a kernel may be scaled on both sides
            source.input[at] = _store_again(graph, f"{conv.output[0]}_{at}", array)
        del source.attribute[:]
        source.attribute.append(helper.make_attribute("axis", 0))
    else:
        name = f"{conv.output[0]}_weight"
        constants[name] = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        conv.input[1] = _store_again(graph, name, constants[name])
    if and_bias and len(conv.input) == 3:
        name = f"{conv.output[0]}_bias_scaled"
        constants[name] = constants[conv.input[2]] * factor
        conv.input[2] = _store_again(graph, name, constants[name])


def _store_again(graph: onnx.GraphProto, name: str, array: np.ndarray) -> str:
    for tensor in [tensor for tensor in graph.initializer if tensor.name == name]:
        graph.initializer.remove(tensor)
    return store(graph, name, array)


def use_unsigned_activations(model: onnx.ModelProto) -> None:
    """Make int8 activations uint8 with 128 more, in place: the same grid.

    ONNX Runtime on x86 leaves operations on int8 activations in floats where several operations read them (a residual
    addition).
    """
    graph = model.graph
    constants = constants_of(graph)
    shifted: dict[str, str] = {}
    outputs: set[str] = set()
    for node in graph.node:
        quantizes = node.op_type == "QuantizeLinear" and constants[node.input[2]].dtype == np.int8
        if quantizes or (node.op_type == "DequantizeLinear" and node.input[0] in outputs):
            old = node.input[2]
            if old not in shifted:
                zero_point = (constants[old].astype(np.int16) + 128).astype(np.uint8)
                shifted[old] = store(graph, f"{old}_unsigned", zero_point)
            node.input[2] = shifted[old]
            outputs.update(node.output if quantizes else [])
    replace_nodes(graph, graph.node)


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


def use_integer_products(model: onnx.ModelProto) -> None:
    """Write each quantized Gemm as an integer product, scaled, with its bias added in floats, in place.

    ONNX Runtime 1.10 fuses no quantized Gemm: it makes floats of the whole weight at each call.
    """
    graph = model.graph
    constants = constants_of(graph)
    made_by = {name: node for node in graph.node for name in node.output}
    ordered: list[onnx.NodeProto] = []
    for node in graph.node:
        data, weight = (made_by.get(name) for name in node.input[:2]) if node.op_type == "Gemm" else (None, None)
        if (
            data is None
            or weight is None
            or data.op_type != "DequantizeLinear"
            or weight.op_type != "DequantizeLinear"
            or data.input[0] in constants
            or weight.input[0] not in constants
            or constants[data.input[1]].ndim
            or np.any(constants[weight.input[2]])
            or not _plain_product(node)
        ):
            ordered.append(node)
            continue
        name, integers = node.output[0], constants[weight.input[0]]
        scale = constants[data.input[1]] * constants[weight.input[1]]
        biased = len(node.input) == 3
        parts = [f"{name}_bias{part}" for part in ("_sum", "_sum_float", "_product")]
        turned = store(graph, f"{weight.input[0]}_bias_turned", integers.T)
        ordered += [
            helper.make_node("MatMulInteger", [data.input[0], turned, data.input[2]], parts[:1], name=node.name),
            helper.make_node("Cast", parts[:1], parts[1:2], to=onnx.TensorProto.FLOAT),
            helper.make_node(
                "Mul", [parts[1], store(graph, f"{name}_bias_scale", scale)], [parts[2] if biased else name]
            ),
        ]
        if biased:
            ordered.append(helper.make_node("Add", [parts[2], node.input[2]], [name]))
    replace_nodes(graph, ordered)


def _plain_product(gemm: onnx.NodeProto) -> bool:
    """Whether it is ``x @ w.T + b``."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in gemm.attribute}
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return values.get("transB", 0) == 1 and all(values.get(name, value) == value for name, value in plain.items())


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
