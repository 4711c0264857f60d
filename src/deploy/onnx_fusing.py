"""Rewriting quantized ONNX graphs so that runtimes compute them in integers; no result changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from src.contracts import Role
from src.deploy.onnx_graph import ROLES


def fuse(model: onnx.ModelProto) -> None:
    """Rewrite the graph so that ONNX Runtime 1.10 (2021) and later compute it in integers on a CPU, in place."""
    drop_clamps(model, ("Clip", "Relu"))
    use_unsigned_activations(model)
    clamp_integers(model)
    carry_quantization(model)
    use_integer_products(model)
    store_integer_biases(model)


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Every stored tensor and the value of every Constant, by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def readers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor; an empty node stands for the reader of a graph output."""
    readers: dict[str, list[onnx.NodeProto]] = {value.name: [onnx.NodeProto()] for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give the graph ``nodes``, in place, and drop the stored tensors and dequantizations that none of them reads."""
    kept = list(nodes)
    read = Counter([name for node in kept for name in node.input] + [value.name for value in graph.output])
    kept = [node for node in kept if node.op_type not in ("DequantizeLinear", "Constant") or read[node.output[0]]]
    read = Counter(name for node in kept for name in node.input)
    stored = [tensor for tensor in graph.initializer if read[tensor.name]]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(stored)


def store(graph: onnx.GraphProto, name: str, array: np.ndarray) -> str:
    """Add a stored tensor and return its name."""
    graph.initializer.append(numpy_helper.from_array(np.array(array, order="C"), name))
    return name


def _saturates(quantize: onnx.NodeProto, low: float, high: float, constants: dict[str, np.ndarray]) -> bool:
    """Whether a QuantizeLinear saturates at ``low`` and ``high`` or inside them, in every channel."""
    scale, zero_point = (constants[name].astype(np.float64) for name in quantize.input[1:3])
    limits = np.iinfo(constants[quantize.input[2]].dtype)
    above = np.isinf(high) or np.all(np.rint(high / scale) + zero_point >= limits.max)
    return bool(above and np.all(np.rint(low / scale) + zero_point <= limits.min))


def clamp_limits(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> tuple[float, float]:
    """The limits of a Relu or Clip; infinite if there is none on that side, or if it is computed and not stored."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    low, high = ([*node.input[1:], "", ""])[:2]
    return float(constants.get(low, np.array(-np.inf))), float(constants.get(high, np.array(np.inf)))


def drop_clamps(model: onnx.ModelProto, kinds: tuple[str, ...]) -> None:
    """Remove each Relu or Clip whose only reader, a QuantizeLinear, saturates at the same limits anyway, in place."""
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


def use_unsigned_activations(model: onnx.ModelProto) -> None:
    """Turn int8 activations into uint8 with zero points 128 higher, in place: the same grid of values.

    ONNX Runtime on x86 computes with an int8 activation in floats if several operations read it (a residual addition).
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


def clamp_integers(model: onnx.ModelProto) -> None:
    """Let each Relu or Clip before its only reader, a QuantizeLinear, cut off integers after it instead, in place.

    No integer changes. ONNX Runtime fuses no Relu whose result has a signed grid, as one that a concatenation shares
    with signed values, and then computes the convolution before it in floats.
    """
    graph = model.graph
    constants, readers = constants_of(graph), readers_of(graph)
    moved = {}
    for node in graph.node:
        after = readers.get(node.output[0], [])
        quantized = [reader.op_type for reader in after] == ["QuantizeLinear"]
        if node.op_type in ("Relu", "Clip") and quantized and constants[after[0].input[1]].ndim == 0:
            moved[after[0].output[0]] = node
    ordered = []
    for node in graph.node:
        clamp = moved.get(node.output[0])
        if clamp is None:
            if node.output[0] not in {each.output[0] for each in moved.values()}:
                ordered.append(node)
            continue
        scale, zero_point = (constants[name] for name in node.input[1:3])
        limits, name = np.iinfo(zero_point.dtype), node.output[0]
        ends = [np.rint(end / scale) + zero_point for end in clamp_limits(clamp, constants)]
        stored = [
            store(graph, f"{name}_{part}", np.clip(end, limits.min, limits.max).astype(zero_point.dtype))
            for part, end in zip(("low", "high"), ends, strict=True)
        ]
        node.input[0], node.output[0] = clamp.input[0], f"{name}_unclamped"
        ordered += [node, helper.make_node("Clip", [node.output[0], *stored], [name], name=clamp.name)]
    replace_nodes(graph, ordered)


def carry_quantization(model: onnx.ModelProto) -> None:
    """Quantize activations again that were only moved or max-pooled since they were dequantized, in place.

    The values are on the grid already, so nothing changes. But runtimes compute an operation in integers only if a
    dequantization stands right before it, and ONNX Runtime does not move one past a Flatten by itself.
    """
    graph = model.graph
    values = constants_of(graph)
    constants = {tensor.name for tensor in graph.initializer}
    grids: dict[str, list[str]] = {}
    ordered: list[onnx.NodeProto] = []
    for node in list(graph.node):
        ordered.append(node)
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            grids[node.output[0]] = list(node.input[1:])
        elif ROLES.get(node.op_type) in (Role.MOVING, Role.POOLING) and _on_one_grid(node, grids, values):
            grid = grids[node.input[0]]
            for at, name in enumerate(list(node.output)):
                node.output[at] = f"{name}_moved"
                ordered.append(helper.make_node("QuantizeLinear", [f"{name}_moved", *grid], [f"{name}_quantized"]))
                ordered.append(helper.make_node("DequantizeLinear", [f"{name}_quantized", *grid], [name]))
                grids[name] = grid
    del graph.node[:]
    graph.node.extend(ordered)


def _on_one_grid(node: onnx.NodeProto, grids: Mapping[str, list[str]], values: Mapping[str, np.ndarray]) -> bool:
    """Whether what the node moves has one scale and one zero point; a concatenation moves all of its inputs."""
    moved = node.input if node.op_type == "Concat" else node.input[:1]
    if node.op_type == "Pad" and len(node.input) > 2 and node.input[2] and np.any(values.get(node.input[2], 1)):
        return False  # it is filled with a value that may lie beyond the grid
    if any(name not in grids or values[grids[name][0]].ndim for name in moved):
        return False
    return all(
        np.array_equal(values[one], values[other])
        for name in moved
        for one, other in zip(grids[moved[0]], grids[name], strict=True)
    )


def use_integer_products(model: onnx.ModelProto) -> None:
    """Rewrite each quantized Gemm as an integer product that is scaled and gets its bias in floats, in place.

    ONNX Runtime 1.10 fuses no quantized Gemm: it dequantizes the whole weight in each call.
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
        name, has_bias = node.output[0], len(node.input) == 3
        product, as_float = f"{name}_int_product", f"{name}_float_product"
        scaled = f"{name}_scaled_product" if has_bias else name
        transposed = store(graph, f"{weight.input[0]}_transposed", constants[weight.input[0]].T)
        factors = store(graph, f"{name}_factors", constants[data.input[1]] * constants[weight.input[1]])
        ordered += [
            helper.make_node("MatMulInteger", [data.input[0], transposed, data.input[2]], [product], name=node.name),
            helper.make_node("Cast", [product], [as_float], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [as_float, factors], [scaled]),
        ]
        if has_bias:
            ordered.append(helper.make_node("Add", [scaled, node.input[2]], [name]))
    replace_nodes(graph, ordered)


def _plain_product(gemm: onnx.NodeProto) -> bool:
    """Whether the Gemm is ``x @ w.T + b``."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in gemm.attribute}
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return values.get("transB", 0) == 1 and all(values.get(name, value) == value for name, value in plain.items())


def store_integer_biases(model: onnx.ModelProto) -> None:
    """Store the bias of each quantized operation as int32, with input scale x weight scale as its scale, in place.

    Runtimes add it to their int32 sums; ONNX Runtime computes a Gemm with a float bias in floats. A bias beyond int32
    stays a float.

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
            steps = np.rint(bias / scale.astype(np.float64))
            if np.abs(steps).max() >= 2**31:  # a channel whose weights are almost zero: int32 would cut its bias off
                ordered.append(node)
                continue
            integers = steps.astype(np.int32)
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
