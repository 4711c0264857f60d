"""Shapes that an ONNX graph computes for each batch, although only the number of images is free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from src.deploy.onnx_fusing import constants_of, replace_nodes, store
from src.deploy.onnx_graph import activations_of

BATCHES = (2, 3, 5)


def fold_shapes(model: onnx.ModelProto) -> None:
    """Store each shape that does not depend on the number of images, in place; a Reshape to that number infers it.

    A Shape that reads a tensor beside its quantizer keeps ONNX Runtime from computing what is before it in integers.
    The values are found by running the graph on several numbers of images.
    """
    graph = model.graph
    constants = constants_of(graph)
    computed: dict[str, onnx.NodeProto] = {}  # from shapes and constants alone
    for node in graph.node:
        inputs = [name for name in node.input if name]
        shaped = bool(inputs) and all(name in constants or name in computed for name in inputs)
        if node.op_type == "Shape" or (shaped and any(name in computed for name in inputs)):
            computed |= dict.fromkeys(node.output, node)
    branches = any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)
    if not computed or branches:  # a branch reads tensors that are no inputs of its node
        return
    reshapes = [node for node in graph.node if node.op_type == "Reshape" and node.input[1] in computed]
    try:
        wanted = {*computed, *(node.input[0] for node in reshapes)}
        runs = [activations_of(model, batch, only=wanted) for batch in BATCHES]
    except (
        Exception
    ):  # ONNX Runtime's exceptions have no common public base class; the graph takes one number of images
        return
    found = {name: [run[name] for run in runs] for name in computed if runs[0][name].dtype == np.int64}
    fixed = {name for name, values in found.items() if all(np.array_equal(values[0], each) for each in values)}
    for node in reshapes:
        if node.input[1] in found and node.input[1] not in fixed:
            given = [run[node.input[0]].shape for run in runs if node.input[0] in run]
            shape = _with_free_batch(found[node.input[1]], given)
            if shape is not None:
                node.input[1] = store(graph, f"{node.output[0]}_shape", shape)
    for name in sorted(fixed):
        store(graph, name, found[name][0])
    _drop_unread(graph, [node for node in graph.node if not fixed.issuperset(node.output)])


def _with_free_batch(shapes: Sequence[np.ndarray], given: Sequence[Sequence[int]]) -> np.ndarray | None:
    """The one target of a Reshape of which ``shapes`` are the cases of ``BATCHES``; None if there is none.

    Args:
        shapes: The targets.
        given: Shapes of what is reshaped.

    Returns:
        ``[-1, 16, 8, 8]``, or ``[0, -1]`` where another dimension is inferred and the first one stays.
    """
    table = np.stack(shapes) if len({shape.shape for shape in shapes}) == 1 else np.zeros((1, 0))
    free = (table != table[0]).any(0)
    if free.sum() != 1 or (table[0] == 0).any():
        return None
    if (table[0] > 0).all():
        return np.where(free, -1, table[0])
    stays = free[0] and [shape[0] for shape in given] == table[:, 0].tolist()
    return np.where(free, 0, table[0]) if stays else None


def _drop_unread(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Give the graph those of ``nodes`` that lead to its outputs, in place."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(nodes):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    replace_nodes(graph, kept[::-1])
