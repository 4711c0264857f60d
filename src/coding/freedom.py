"""What a network does not say: the order of its hidden units, and the sign of its zeros.

Units of a hidden layer may stand in any order, as long as the layer that reads them follows: about ``log2(n!)`` bits of
a layer of ``n`` say nothing. They are put in the order that packs best. Logits stay equal to float rounding, since sums
are taken in another order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from src.coding.errors import DnncError
from src.device.packed import Tensor
from src.device.packed_graph import Graph, Node
from src.device.packed_streams import DTYPES

THROUGH = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")
FLOATS = ("F64", "F32", "F16", "BF16")
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Hidden:
    """A hidden layer whose units may be reordered.

    Attributes:
        weight, bias: Names of the tensors that make the units; ``bias`` may be empty.
        axis: The units' axis of ``weight``.
        reader: Name of the weight that reads the units.
        reader_axis: Their axis there; a unit may have several places in a row (the pixels of a flattened channel).
    """

    weight: str
    bias: str
    axis: int
    reader: str
    reader_axis: int


def rearranged(tensors: Tensors, graph: Graph, measure: Callable[[dict[str, Tensor]], int]) -> dict[str, Tensor]:
    """Tensors of the same network, up to float rounding, that pack in fewer bytes.

    Args:
        tensors: The tensors.
        graph: The network's graph.
        measure: Gives the bytes that tensors pack in.

    Raises:
        DnncError: Nothing is known of the network but its weights.
    """
    if not graph.nodes:
        raise DnncError("exact=outputs needs a graph: bare weights do not say which units may be reordered")
    plain = {name: _without_negative_zeros(tensor) for name, tensor in tensors.items()}
    layers = list(hidden_layers(plain, graph))
    found = [plain, *(_ordered(plain, layers, by_bias) for by_bias in (False, True))]
    return min(found, key=measure)


def hidden_layers(tensors: Tensors, graph: Graph) -> Iterator[Hidden]:
    """The hidden layers between two dense layers or convolutions with nothing else in the way."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses.update(port.value for port in graph.outputs)
    reader_of = {name: node for node in graph.nodes for name in node.inputs}
    for node in graph.nodes:
        stored = [name for name in node.inputs[1:] if name]
        if not _is_layer(node, tensors) or any(uses[name] != 1 or name not in tensors for name in stored):
            continue
        value = node.outputs[0]
        while uses[value] == 1 and value in reader_of and reader_of[value].operator in THROUGH:
            value = reader_of[value].outputs[0]
        reader = reader_of.get(value)
        if reader is None or uses[value] != 1 or reader.inputs[0] != value or not _is_layer(reader, tensors):
            continue
        axis, reader_axis = _output_axis(node), 1 - _output_axis(reader)
        units = tensors[stored[0]].shape[axis]
        if uses[reader.inputs[1]] == 1 and tensors[reader.inputs[1]].shape[reader_axis] % units == 0:
            yield Hidden(stored[0], stored[1] if len(stored) > 1 else "", axis, reader.inputs[1], reader_axis)


def _is_layer(node: Node, tensors: Tensors) -> bool:
    """Whether a node is a dense layer or a convolution in one group, with a stored weight."""
    values = {name: value for name, _, value in node.attributes}
    plain = values.get("group", 1) == 1 and values.get("transA", 0) == 0
    return node.operator in ("Gemm", "Conv") and plain and node.inputs[1] in tensors


def _output_axis(node: Node) -> int:
    values = {name: value for name, _, value in node.attributes}
    return 0 if node.operator == "Conv" or values.get("transB", 0) else 1


def _ordered(tensors: Tensors, layers: list[Hidden], by_bias: bool) -> dict[str, Tensor]:
    """Put the units of each layer in the order of their biases, or of how many of their weights are not zero."""
    found = dict(tensors)
    for layer in layers:
        weight = found[layer.weight]
        rows = np.moveaxis(weight.bits.reshape(weight.shape), layer.axis, 0).reshape(weight.shape[layer.axis], -1)
        counts = np.count_nonzero(rows, axis=1)
        keys = [-counts]
        if by_bias and layer.bias and found[layer.bias].dtype == "F32":
            keys.append(found[layer.bias].bits.view(np.float32))
        order = np.lexsort(keys)
        found[layer.weight] = _taken(weight, layer.axis, order)
        found[layer.reader] = _taken(found[layer.reader], layer.reader_axis, order)
        if layer.bias:
            found[layer.bias] = _taken(found[layer.bias], 0, order)
    return found


def _taken(tensor: Tensor, axis: int, order: np.ndarray) -> Tensor:
    """A tensor with the blocks of an axis in another order."""
    shape = list(tensor.shape)
    blocks = [*shape[:axis], len(order), shape[axis] // len(order), *shape[axis + 1 :]]
    return tensor._replace(bits=np.take(tensor.bits.reshape(blocks), order, axis=axis).reshape(-1))


def _without_negative_zeros(tensor: Tensor) -> Tensor:
    """A tensor with 0.0 in place of -0.0."""
    if tensor.dtype not in FLOATS:
        return tensor
    zero = 1 << (8 * DTYPES[tensor.dtype] - 1)
    return tensor._replace(bits=np.where(tensor.bits == zero, 0, tensor.bits).astype(tensor.bits.dtype))
