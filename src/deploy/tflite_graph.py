"""Reading TFLite files: their graph as measuring sees it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from src.contracts import Graph, GraphNode, GraphTensor, Role
from src.deploy.tflite_file import WEIGHTED, array_of, dtype_of, kind_of, readers_of

ROLES = {
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), Role.MOVING),
    **dict.fromkeys(("RELU", "RELU6", "LOGISTIC", "HARD_SWISH", "TANH", "ADD", "MUL", "SUB"), Role.IN_PLACE),
    "MAX_POOL_2D": Role.POOLING,
}  # QUANTIZE and DEQUANTIZE compute: a tensor of this format has the type that it has in memory


def graph_of(file: Any) -> Graph:
    """Operators and tensors of a parsed file; an operator is named by its layer, or else its number, and its kind."""
    graph = file.subgraphs[0]
    tensors: dict[str, GraphTensor] = {}
    names: dict[int, str] = {}
    stored: dict[int, int] = {}  # constant, or what dequantizes it alone -> the constant
    for index, tensor in enumerate(graph.tensors):
        names[index] = f"{index}"
        array = array_of(file, tensor)
        elements = math.prod(map(int, tensor.shape)) if tensor.shape is not None else 1
        nonzero = None
        if array is not None:
            stored[index] = index
            nonzero = int(np.count_nonzero(_above_zero_point(array, tensor)))
        tensors[names[index]] = GraphTensor(elements, elements * dtype_of(tensor).itemsize, nonzero)
    nodes: list[GraphNode] = []
    weights: list[str] = []
    for operator in graph.operators:
        kind = kind_of(file, operator)
        inputs = [index for index in operator.inputs if index >= 0]
        if kind == "DEQUANTIZE" and inputs[0] in stored:
            stored[operator.outputs[0]] = stored[inputs[0]]
        constants = [stored[index] for index in inputs if index in stored]
        if kind in WEIGHTED:
            weights += [names[index] for index in constants]
        elif kind in ("ADD", "MUL", "SUB"):
            weights += [names[index] for index in constants if tensors[names[index]].elements > 1]
        reads, makes = tuple(names[i] for i in inputs), tuple(names[i] for i in operator.outputs)
        role = ROLES.get(kind, Role.COMPUTE)
        if kind == "PAD" and all(kind_of(file, reader) in WEIGHTED for reader in readers_of(file, operator.outputs[0])):
            role = Role.MOVING  # XNNPACK pads within the convolution after it
        at = graph.tensors[operator.inputs[1]].name.decode() if kind in WEIGHTED else f"{len(nodes)}"
        nodes.append(GraphNode(reads, makes, role, _macs(graph, kind, operator), f"{at}/{kind}"))
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
    along[grid.quantizedDimension] = -1
    return array.astype(np.int64) - np.asarray(grid.zeroPoint).reshape(along if len(grid.zeroPoint) > 1 else ())


def _macs(graph: Any, kind: str, operator: Any) -> int:
    """Multiply-accumulates of an operator at batch 1."""
    if kind not in WEIGHTED:
        return 0
    made = math.prod(map(int, graph.tensors[operator.outputs[0]].shape))
    weight = [int(size) for size in graph.tensors[operator.inputs[1]].shape]
    if kind == "CONV_2D":
        return made * math.prod(weight[1:])
    if kind == "DEPTHWISE_CONV_2D":
        return made * math.prod(weight[1:3])
    if kind == "TRANSPOSE_CONV":  # its inputs are the output's shape, the filter and the image
        image = graph.tensors[operator.inputs[2]].shape
        return math.prod(map(int, image)) * math.prod([weight[0], *weight[1:3]])
    return made * int(graph.tensors[operator.inputs[0]].shape[-1])
