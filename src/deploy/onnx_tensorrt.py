"""Rewriting ONNX graphs for TensorRT 8.2 (JetPack 4.6): symmetric int8 quantizers, float weights in front of them.

The operators are those of onnx-tensorrt's docs/operators.md for 8.4 without what its changelog adds after 8.2 (Xor).
TensorRT refuses stored int8 numbers ("invalid weights type of Int8", NVIDIA/TensorRT issue 2163, microsoft/onnxruntime
issue 11535) and quantized biases (onnx-tensorrt issue 850), so weights are floats with a quantizer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from src.contracts import InputError
from src.deploy.onnx_fusing import constants_of, readers_of, replace_nodes, store
from src.deploy.onnx_graph import read

OPSET, IR = 13, 7  # the latest that TensorRT 8.2 takes
NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu
Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GRU HardSigmoid Identity If ImageScaler InstanceNormalization IsNaN LeakyRelu
Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg
NonMaxSuppression Not Or Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomUniform RandomUniformLike Range
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
Relu Reshape Resize ReverseSequence RNN Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid
Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu
Tile TopK Transpose Unsqueeze Upsample Where
"""
OPERATORS = frozenset(NAMES.split())
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
TYPES = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.BOOL,
}


def fit_tensorrt(model: onnx.ModelProto) -> None:
    """Rewrite the graph for TensorRT 8.2, in place.

    Unsigned activations become signed ones of the same range, so that they have 127 steps instead of 255.

    Raises:
        InputError: The graph has something that TensorRT 8.2 does not take; the message names the layer.
    """
    use_signed_activations(model)
    quantize_float_weights(model)
    refuse_unfit(model)


def use_signed_activations(model: onnx.ModelProto) -> None:
    """Turn uint8 activations with zero point 0 into int8 with scales 255/127 times as large, in place."""
    graph = model.graph
    constants = constants_of(graph)
    grids: dict[tuple[str, str], list[str]] = {}
    for node in graph.node:
        if node.op_type not in QUANTIZERS or node.input[0] in constants:
            continue
        scale, zero_point = (constants[name] for name in node.input[1:3])
        if zero_point.dtype != np.uint8 or np.any(zero_point):
            continue
        old = (node.input[1], node.input[2])
        if old not in grids:
            name = f"{old[0]}_signed{len(grids)}"
            grids[old] = [
                store(graph, name, (scale * np.float32(255 / 127)).astype(np.float32)),
                store(graph, f"{name}_zero_point", zero_point.astype(np.int8)),
            ]
        node.input[1:] = grids[old]
    replace_nodes(graph, graph.node)


def quantize_float_weights(model: onnx.ModelProto) -> None:
    """Store each int8 weight as floats in front of a QuantizeLinear that gives the same integers, in place."""
    graph = model.graph
    constants = constants_of(graph)
    ordered: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants and not np.any(constants[node.input[2]]):
            name, integers = node.input[0], constants[node.input[0]]
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            scale = constants[node.input[1]]
            if scale.ndim:
                scale = scale.reshape([-1 if at == axis else 1 for at in range(integers.ndim)])
            floats = store(graph, f"{name}_dequantized", (integers * scale).astype(np.float32))
            quantize = helper.make_node("QuantizeLinear", [floats, *node.input[1:]], [f"{name}_integers"])
            quantize.attribute.extend(node.attribute)
            node.input[0] = f"{name}_integers"
            ordered.append(quantize)
        ordered.append(node)
    replace_nodes(graph, ordered)


def check(path: Path) -> None:
    """Raise InputError for the first layer of the file that TensorRT 8.2 does not take."""
    refuse_unfit(read(path))


def refuse_unfit(model: onnx.ModelProto) -> None:
    """Raise InputError for the first layer of the graph that TensorRT 8.2 does not take."""
    opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    foreign = sorted(set(opsets) - {"ai.onnx"})
    if foreign or opsets.get("ai.onnx", OPSET + 1) > OPSET:
        found = ", ".join(f"{domain} {version}" for domain, version in opsets.items())
        raise InputError(f"TensorRT 8.2 takes the operator set ai.onnx up to {OPSET}; the file has {found}")
    if model.ir_version > IR:
        raise InputError(f"TensorRT 8.2 takes ONNX files up to IR version {IR}; the file has {model.ir_version}")
    graph = model.graph
    constants, readers = constants_of(graph), readers_of(graph)
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        reason = _unfit(node, constants, stored, made_by)
        if reason:
            raise InputError(f"TensorRT 8.2 does not take {_layer(node, readers)}: {reason}")


def _unfit(
    node: onnx.NodeProto,
    constants: dict[str, np.ndarray],
    stored: dict[str, int],
    made_by: dict[str, onnx.NodeProto],
) -> str | None:
    """Why TensorRT 8.2 does not take the node; None if it does."""
    if node.op_type not in OPERATORS:
        return f"it has no operator {node.op_type}"
    if node.op_type in QUANTIZERS:
        return _unfit_quantizer(node, constants)
    for name in node.input:
        if stored.get(name, onnx.TensorProto.FLOAT) not in TYPES:
            return f"it reads stored numbers of type {onnx.TensorProto.DataType.Name(stored[name])}"
    if node.op_type in ("Conv", "ConvTranspose"):
        source = made_by.get(node.input[1])
        if node.input[1] not in constants and (source is None or source.op_type != "DequantizeLinear"):
            return "its weights are computed, not stored"
    if node.op_type == "MaxPool" and len(node.output) > 1:
        return "it also outputs the indices of its maxima"
    return None


def _unfit_quantizer(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> str | None:
    """Why TensorRT 8.2 does not take the quantizer; None if it does."""
    weight = node.input[0] in constants
    if node.op_type == "DequantizeLinear" and weight:
        kind = constants[node.input[0]].dtype
        return f"stored {kind} numbers cannot be dequantized; they must be floats behind a QuantizeLinear"
    if any(name not in constants for name in node.input[1:]):
        return "its scale or zero point is computed, not stored"
    if len(node.input) < 3 or constants[node.input[2]].dtype != np.int8:
        return "it is quantized to uint8, not int8"
    if np.any(constants[node.input[2]]):
        return "its zero point is not 0"
    if node.op_type == "QuantizeLinear" and not weight and constants[node.input[1]].size > 1:
        return "an activation has a scale for each channel"
    return None


def _layer(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> str:
    """Name of the node; for a quantizer, the name of the next node that is no quantizer."""
    at, seen = node, 0
    while (not at.name or at.op_type in QUANTIZERS) and at.output and readers.get(at.output[0]) and seen < 10:
        at, seen = readers[at.output[0]][0], seen + 1
    name = at.name or node.output[0]
    return name if at is node else f"the quantizer before {name}"


def remarks(path: Path) -> list[str]:
    """A line that names the layers whose number of channels is no multiple of 8, if there are any: they run slower."""
    graph = read(path).graph
    constants = constants_of(graph)
    made_by = {name: node for node in graph.node for name in node.output}
    logits = {value.name for value in graph.output}
    uneven = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or set(node.output) & logits:
            continue
        name = node.input[1]
        while name in made_by and name not in constants:
            name = made_by[name].input[0]
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        channels = constants[name].shape[0 if node.op_type == "Conv" or transposed else 1] if name in constants else 0
        if channels % 8:
            uneven.append(f"{node.name or node.output[0]} ({channels})")
    if not uneven:
        return []
    return [f"numbers of channels that are no multiple of 8 can make TensorRT slower: {', '.join(uneven)}"]


def is_quantized(path: Path) -> bool:
    """Whether the file has quantizers."""
    return any(node.op_type in QUANTIZERS for node in read(path).graph.node)
