"""A TFLite file as measuring sees it."""

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
}  # QUANTIZE and DEQUANTIZE are operations of their own: types in this format are those of memory


def graph_of(file: Any) -> Graph:
    """Operations and tensors of a parsed file; operations are named by their layer or place, and what they do."""
    graph = file.subgraphs[0]
    tensors: dict[str, GraphTensor] = {}
    names: dict[int, str] = {}
    stored: dict[int, int] = {}  # what only makes floats of a constant -> the constant
    for index, tensor in enumerate(graph.tensors):
        names[index] = f"{index}"
        array = array_of(file, tensor)
        elements = math.prod(map(int, tensor.shape)) if tensor.shape is not None else 1
        nonzero = None
        if array is not None:
            stored[index] = index
            nonzero = int(np.count_nonzero(_steps(array, tensor)))
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
            role = Role.MOVING  # XNNPACK lets the convolution after it pad
        at = graph.tensors[operator.inputs[1]].name.decode() if kind in WEIGHTED else f"{len(nodes)}"
        nodes.append(GraphNode(reads, makes, role, _macs(graph, kind, operator), f"{at}/{kind}"))
    return Graph(
        tuple(nodes),
        tensors,
        tuple(dict.fromkeys(weights)),
        tuple(names[int(index)] for index in graph.inputs),
        tuple(names[int(index)] for index in graph.outputs),
    )


def _steps(array: np.ndarray, tensor: Any) -> np.ndarray:
    """Distance of stored integers from their zero point; floats as they are."""
    grid = tensor.quantization
    if array.dtype.kind == "f" or grid is None or grid.zeroPoint is None or not np.any(grid.zeroPoint):
        return array
    along = [1] * array.ndim
    along[grid.quantizedDimension] = -1
    return array.astype(np.int64) - np.asarray(grid.zeroPoint).reshape(along if len(grid.zeroPoint) > 1 else ())


def _macs(graph: Any, kind: str, operator: Any) -> int:
    if kind not in WEIGHTED:
        return 0
    made = math.prod(map(int, graph.tensors[operator.outputs[0]].shape))
    weight = [int(size) for size in graph.tensors[operator.inputs[1]].shape]
    if kind == "CONV_2D":
        return made * math.prod(weight[1:])
    if kind == "DEPTHWISE_CONV_2D":
        return made * math.prod(weight[1:3])
    if kind == "TRANSPOSE_CONV":  # the filter, the image, the output's shape are its inputs in another order
        image = graph.tensors[operator.inputs[2]].shape
        return math.prod(map(int, image)) * math.prod([weight[0], *weight[1:3]])
    return made * int(graph.tensors[operator.inputs[0]].shape[-1])
