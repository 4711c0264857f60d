"""Reading TFLite files: their graph as measuring sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from src.contracts import Graph, GraphNode, GraphTensor, Role
from src.deploy import counting
from src.deploy.tflite_file import WEIGHTED, array_of, dtype_of, kind_of, readers_of

ROLES = {
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), Role.MOVING),
    **dict.fromkeys(("RELU", "RELU6", "LOGISTIC", "HARD_SWISH", "TANH", "ADD", "MUL", "SUB"), Role.IN_PLACE),
    "MAX_POOL_2D": Role.POOLING,
}  # QUANTIZE and DEQUANTIZE compute: a tensor of this format has the type that it has in memory

SELECTING = (
    "GATHER",
    "GATHER_ND",
    "EMBEDDING_LOOKUP",
    "CONCATENATION",
)  # their output is a part of their input, or contains it


def graph_of(file: Any) -> Graph:
    """Operators and tensors of a parsed file; an operator is named by its layer, or else its number, and its kind."""
    graph = file.subgraphs[0]
    tensors: dict[str, GraphTensor] = {}
    names: dict[int, str] = {}
    floats: set[int] = set()  # constants that may be weights
    stored: dict[int, int] = {}  # constant, or what is made of constants alone -> the largest of these
    for index, tensor in enumerate(graph.tensors):
        names[index] = f"{index}"
        array = array_of(file, tensor)
        elements = math.prod(map(int, tensor.shape)) if tensor.shape is not None else 1
        nonzero = None
        if array is not None:
            stored[index] = index
            nonzero = int(np.count_nonzero(_above_zero_point(array, tensor)))
            if elements > 1 and array.dtype.kind == "f":
                floats.add(index)
        tensors[names[index]] = GraphTensor(elements, elements * dtype_of(tensor).itemsize, nonzero)
    nodes: list[GraphNode] = []
    weights: list[str] = []
    for operator in graph.operators:
        kind = kind_of(file, operator)
        inputs = [index for index in operator.inputs if index >= 0]
        constant = bool(inputs) and all(index in stored for index in inputs)
        if constant:  # it dequantizes, splits or transposes a constant
            largest = max((stored[index] for index in inputs), key=lambda index: tensors[names[index]].elements)
            stored |= dict.fromkeys(operator.outputs, largest)
        given = inputs[1:] if kind == "TRANSPOSE_CONV" else inputs  # its first is the output's shape
        constants = [stored[index] for index in given if index in stored]
        if kind in WEIGHTED:
            weights += [names[index] for index in constants]
        else:
            weights += [names[index] for index in constants if index in floats]
        reads, makes = tuple(names[i] for i in inputs), tuple(names[i] for i in operator.outputs)
        role = ROLES.get(kind, Role.COMPUTE)
        if kind == "PAD" and all(kind_of(file, reader) in WEIGHTED for reader in readers_of(file, operator.outputs[0])):
            role = Role.MOVING  # XNNPACK pads within the convolution after it
        at = graph.tensors[operator.inputs[1]].name.decode() if kind in WEIGHTED else f"{len(nodes)}"
        shapes = [list(map(int, graph.tensors[index].shape)) for index in constants if index in floats and not constant]
        macs = _macs(graph, kind, operator, shapes)
        nodes.append(GraphNode(reads, makes, role, macs, f"{at}/{kind}"))
    return Graph(
        tuple(nodes),
        tensors,
        tuple(dict.fromkeys(weights)),
        tuple(names[int(index)] for index in graph.inputs),
        tuple(names[int(index)] for index in graph.outputs),
    )


def _above_zero_point(array: np.ndarray, tensor: Any) -> np.ndarray:
    """Stored integers less their zero points; floats as they are."""
    grid = tensor.quantization
    if array.dtype.kind == "f" or grid is None or grid.zeroPoint is None or not np.any(grid.zeroPoint):
        return array
    along = [1] * array.ndim
    if array.ndim:
        along[grid.quantizedDimension] = -1
    return array.astype(np.int64) - np.asarray(grid.zeroPoint).reshape(along if len(grid.zeroPoint) > 1 else ())


def _macs(graph: Any, kind: str, operator: Any, weights: Sequence[Sequence[int]]) -> int | None:
    """Multiply-accumulates of an operator at batch 1; None if it has ``weights`` and is of an unknown kind."""
    made = [int(size) for size in graph.tensors[operator.outputs[0]].shape]
    if kind not in WEIGHTED:
        return 0 if kind in SELECTING or all(counting.is_spread(shape, made) for shape in weights) else None
    weight = [int(size) for size in graph.tensors[operator.inputs[1]].shape]
    if kind == "CONV_2D":
        return counting.convolution(made, weight)
    if kind == "DEPTHWISE_CONV_2D":
        return counting.product(made, math.prod(weight[1:3]))
    if kind == "TRANSPOSE_CONV":  # its inputs are the output's shape, the filter [out, *sides, in] and the image
        image = [int(size) for size in graph.tensors[operator.inputs[2]].shape]
        return counting.transposed_convolution(image, [weight[3], *weight[:3]])
    if kind == "FULLY_CONNECTED":
        return counting.product(made, weight[-1])
    return counting.product(
        made, int(graph.tensors[operator.inputs[0]].shape[-2 if operator.builtinOptions.adjX else -1])
    )
