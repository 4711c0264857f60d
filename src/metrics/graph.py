"""What can be counted in an exported graph without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from src.contracts import Graph, GraphNode, Role


def parameters(graph: Graph) -> int:
    """Number of stored weights and biases; scales, zero points and shapes are none."""
    return sum(graph.tensors[name].elements for name in graph.weights)


def nonzero_parameters(graph: Graph) -> int:
    """How many of them are not zero (not their zero point, where they are integers)."""
    return sum(graph.tensors[name].nonzero or 0 for name in graph.weights)


def macs(graph: Graph) -> int:
    """Multiply-accumulates of convolutions and matrix products at batch 1."""
    return sum(node.macs for node in graph.nodes)


def peak_activation_bytes(graph: Graph) -> int:
    """The largest sum of live activations over the graph's order, at batch 1, in bytes.

    A tensor lives from the node that makes it to the last that reads it; a node's inputs and outputs live together.
    Counted as a fusing runtime keeps them: element-wise and moving nodes write no memory of their own, and what only a
    quantization reads has one byte an element.
    """
    readers = Counter(name for node in graph.nodes for name in set(node.inputs))
    readers.update(graph.outputs)
    stored = {name for name, tensor in graph.tensors.items() if tensor.nonzero is not None}
    active = []
    for node in graph.nodes:
        if all(name in stored or not name for name in node.inputs):
            stored.update(node.outputs)
        else:
            active.append(node)
    integers = _integers(graph, active, readers)

    owner = {name: name for name in graph.inputs}
    born = dict.fromkeys(graph.inputs, -1)
    last = dict.fromkeys(graph.inputs, -1)
    size = {name: _bytes(graph, name, integers) for name in graph.inputs}
    unread = {name: readers[name] for name in graph.inputs}  # by owner: reads of it and of its aliases still to come
    for at, node in enumerate(active):
        reads = [owner[name] for name in dict.fromkeys(node.inputs) if name in owner]
        for name in reads:
            last[name] = at
            unread[name] -= 1
        for name in node.outputs:
            if not readers[name]:
                continue
            needed = _bytes(graph, name, integers)
            if node.role in (Role.MOVING, Role.QUANTIZE, Role.DEQUANTIZE):
                place: str | None = reads[0]
            elif node.role is Role.IN_PLACE:
                place = next((read for read in reads if unread[read] == 0 and size[read] >= needed), None)
            else:
                place = None
            if place is None:
                born[name], size[name], unread[name], place = at, needed, 0, name
            owner[name], last[place] = place, at
            unread[place] += readers[name]
    for name in graph.outputs:
        last[owner[name]] = len(active)
    moments = range(-1, len(active) + 1)
    return max(sum(size[name] for name in born if born[name] <= at <= last[name]) for at in moments)


def _integers(graph: Graph, nodes: Sequence[GraphNode], readers: Mapping[str, int]) -> set[str]:
    """Activations that have one byte an element although the file calls them floats."""
    makers = {name: node for node in nodes for name in node.outputs}
    found: set[str] = set()
    for node in nodes:
        if node.role is Role.DEQUANTIZE or (node.role in (Role.MOVING, Role.POOLING) and node.inputs[0] in found):
            found.update(node.outputs)
        if node.role is not Role.QUANTIZE:
            continue
        found.update(node.outputs)
        name = node.inputs[0]
        while name in makers and readers[name] == 1:
            found.add(name)
            if makers[name].role not in (Role.IN_PLACE, Role.MOVING):
                break
            name = makers[name].inputs[0]
    return found


def _bytes(graph: Graph, name: str, integers: set[str]) -> int:
    tensor = graph.tensors[name]
    return tensor.elements if name in integers else tensor.size_bytes
