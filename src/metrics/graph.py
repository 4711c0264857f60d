"""Counting in an exported graph: parameters, multiply-accumulates, bytes of weights and activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from src.contracts import Graph, GraphNode, Role


class UncountedError(Exception):
    """A figure of the graph cannot be counted; the message says why."""


def parameters(graph: Graph) -> int:
    """Number of stored weights and biases; scales, zero points and shapes do not count."""
    return sum(graph.tensors[name].elements for name in graph.weights)


def nonzero_parameters(graph: Graph) -> int:
    """Number of stored weights and biases that are not zero; an integer is zero if it equals its zero point."""
    return sum(graph.tensors[name].nonzero or 0 for name in graph.weights)


def macs(graph: Graph) -> int:
    """Multiply-accumulates of convolutions, matrix products and recurrent layers at batch 1.

    Raises:
        UncountedError: An operation has weights and is of an unknown kind.
    """
    unknown = [node.name or node.outputs[0] for node in graph.nodes if node.macs is None]
    if unknown:
        raise UncountedError(f"{', '.join(unknown)}: this operator has weights, and its products are not counted")
    return sum(node.macs or 0 for node in graph.nodes)


def integer_macs(graph: Graph) -> int:
    """Multiply-accumulates whose operands are 8-bit integers."""
    return macs(graph) - sum(node.macs or 0 for node in _computed_in_floats(graph))


def integer_share(graph: Graph) -> float:
    """Share of the multiply-accumulates whose operands are 8-bit integers, in [0, 1]; 0 if the graph has none."""
    return integer_macs(graph) / max(1, macs(graph))


def float_operations(graph: Graph) -> list[str]:
    """Names of the operations whose multiply-accumulates are computed in floats, those with most first."""
    found = sorted(_computed_in_floats(graph), key=lambda node: -(node.macs or 0))
    return [node.name or node.outputs[0] for node in found]


def _computed_in_floats(graph: Graph) -> list[GraphNode]:
    """The nodes with multiply-accumulates that have an operand in floats, or that the runtime computes in floats."""
    active = _active(graph)
    integers = _integers(graph, active, _readers(graph))
    made = {*graph.inputs, *(name for node in active for name in node.outputs)}
    makers = {name: node for node in graph.nodes for name in node.outputs}

    def integer(name: str) -> bool:
        if name in makers and name not in made:  # made of stored tensors alone, once
            return any(map(integer, makers[name].inputs))
        tensor = graph.tensors[name]
        return name in integers or (tensor.elements > 1 and tensor.size_bytes == tensor.elements)

    def in_integers(node: GraphNode) -> bool:
        operands = [name for name in node.inputs[:2] if name in graph.tensors]
        return not node.float_kernel and all(map(integer, operands))

    return [node for node in active if node.macs and not in_integers(node)]


def weight_bytes(graph: Graph) -> int:
    """Bytes of the stored weights and biases."""
    return sum(graph.tensors[name].size_bytes for name in graph.weights)


def largest_layer(graph: Graph) -> tuple[str, int]:
    """The operation whose stored weight takes the most bytes, and their number.

    Returns:
        Name of the operation and bytes of its weight; ``("no layer", 0)`` if no operation has a weight.
    """
    largest = max(graph.weights, key=lambda name: graph.tensors[name].size_bytes, default=None)
    if largest is None:
        return "no layer", 0
    weight = largest
    for node in graph.nodes:
        if weight in node.inputs:
            if any(name in graph.tensors and graph.tensors[name].nonzero is None for name in node.inputs):
                return node.name or node.outputs[0], graph.tensors[largest].size_bytes
            weight = node.outputs[0]  # the node only converts it
    return largest, graph.tensors[largest].size_bytes


def moved_activation_bytes(graph: Graph) -> int:
    """Bytes of activations that a fusing runtime reads and writes at batch 1.

    An operation that computes or pools reads its inputs and writes its output. An element-wise operation is fused into
    the one before it and reads only its other inputs.
    """
    active = _active(graph)
    integers = _integers(graph, active, _readers(graph))
    made = {*graph.inputs, *(name for node in active for name in node.outputs)}
    total = 0
    for node in active:
        reads = [_bytes(graph, name, integers) for name in dict.fromkeys(node.inputs) if name in made]
        if node.role in (Role.COMPUTE, Role.POOLING):
            total += sum(reads) + sum(_bytes(graph, name, integers) for name in node.outputs if name in graph.tensors)
        elif node.role is Role.IN_PLACE:
            total += sum(reads[1:])
    return total


def peak_activation_bytes(graph: Graph) -> int:
    """The bytes of ``peak_activation``."""
    return peak_activation(graph)[0]


def peak_activation(graph: Graph) -> tuple[int, str]:
    """The largest sum of live activations in the graph's order, at batch 1.

    A tensor lives from the node that makes it to the last node that reads it; the inputs and outputs of a node live at
    the same time. Activations are counted as a fusing runtime keeps them: element-wise and moving nodes write no memory
    of their own, and a tensor that only a quantization reads has one byte for each element.

    Returns:
        Bytes, and the name of the operation that runs when they are needed.
    """
    readers, active = _readers(graph), _active(graph)
    integers = _integers(graph, active, readers)

    owner = {name: name for name in graph.inputs}
    born = dict.fromkeys(graph.inputs, -1)
    last = dict.fromkeys(graph.inputs, -1)
    size = {name: _bytes(graph, name, integers) for name in graph.inputs}
    unread = {name: readers[name] for name in graph.inputs}  # by owner: later reads of it and of its aliases
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
    live = [sum(size[name] for name in born if born[name] <= at <= last[name]) for at in range(-1, len(active) + 1)]
    made = ["the input", *(node.name or node.outputs[0] for node in active), "the result"]
    peak = max(live)
    return peak, made[live.index(peak)]


def _readers(graph: Graph) -> Counter[str]:
    """Number of nodes that read each tensor; an output of the graph has one reader more."""
    readers = Counter(name for node in graph.nodes for name in set(node.inputs))
    readers.update(graph.outputs)
    return readers


def _active(graph: Graph) -> list[GraphNode]:
    """The nodes that run for each image: those with an input that is not stored."""
    stored = {name for name, tensor in graph.tensors.items() if tensor.nonzero is not None}
    active = []
    for node in graph.nodes:
        if all(name in stored or not name for name in node.inputs):
            stored.update(node.outputs)
        else:
            active.append(node)
    return active


def _integers(graph: Graph, nodes: Sequence[GraphNode], readers: Mapping[str, int]) -> set[str]:
    """Activations that have one byte for each element in memory, whatever type the file gives them."""
    makers = {name: node for node in nodes for name in node.outputs}
    found: set[str] = set()
    for node in nodes:
        moved = [name for name in node.inputs if name in makers or name in graph.inputs]
        moving = node.role in (Role.MOVING, Role.POOLING) and all(name in found for name in moved)
        if node.role is Role.DEQUANTIZE or moving:
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
    """Bytes of an activation in memory."""
    tensor = graph.tensors[name]
    return tensor.elements if name in integers else tensor.size_bytes
