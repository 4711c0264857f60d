"""The inference graph of a packed file: read, checked, and written as an ONNX file without the onnx package.

A node may use what the graph is given, what is stored, and what nodes before it gave; so a graph has no cycle.
"""

import json
import struct
from typing import Any, Dict, List, NamedTuple, Tuple

from .packed import NAMES_OF_DTYPES, Packed
from .packed_streams import DTYPES, Bytes, PackedError, number_bytes
from .vocabulary import ATTRIBUTES, OPERATORS

ABSENT, NEXT_STORED, LAST_VALUE = 0, 1, 2  # what an input of a node is
FLOAT, INT, STRING, FLOATS, INTS, STRINGS = 1, 2, 3, 6, 7, 8  # types of attributes, as ONNX numbers them
MOST = 1 << 16  # nodes, inputs of a node, items of a list
ONNX_TYPES = {  # numbers of number formats in ONNX
    **{"F32": 1, "U8": 2, "I8": 3, "U16": 4, "I16": 5, "I32": 6, "I64": 7, "BOOL": 9, "F16": 10, "F64": 11},
    **{"U32": 12, "U64": 13, "C64": 14, "BF16": 16, "F8_E4M3": 17, "F8_E4M3FNUZ": 18, "F8_E5M2": 19},
    **{"F8_E5M2FNUZ": 20, "F8_E8M0": 24},
}


class Port(NamedTuple):
    """What goes into or comes out of a graph: number format, sizes (0 is any size), and the name of its value."""

    dtype: str
    shape: Tuple[int, ...]
    value: str


class Node(NamedTuple):
    """An operation: its ONNX operator, names of values, and attributes as ``(name, type, value)``."""

    operator: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    attributes: Tuple[Tuple[str, int, Any], ...]


class Graph(NamedTuple):
    """An inference graph; stored tensors go by their names in the file."""

    opset: int
    ir_version: int
    inputs: Tuple[Port, ...]
    nodes: Tuple[Node, ...]
    outputs: Tuple[Port, ...]


def graph_of(packed: Packed) -> Graph:
    """The graph of a packed file.

    Raises:
        PackedError: The file has none, or one that cannot be: an unknown operator, a value that nothing gives.
    """
    if not packed.graph:
        raise PackedError("the file was packed from bare weights and has no graph")
    return parsed_graph(packed.graph, [entry.name for entry in packed.entries])


def parsed_graph(data: bytes, stored: List[str]) -> Graph:
    """Read a graph; ``stored`` are the names of the stored tensors in the file's order."""
    return _Reader(data, stored).graph()


class _Reader:
    """Reads a graph.

    Args:
        data: Its bytes.
        stored: Names of the stored tensors in the file's order.
    """

    def __init__(self, data: bytes, stored: List[str]) -> None:
        self.data, self.stored, self.used = Bytes(data), stored, 0
        self.values: List[str] = []
        self.prefix = "v"
        while any(name.startswith(self.prefix) for name in stored):
            self.prefix += "_"

    def graph(self) -> Graph:
        """The whole graph."""
        opset, ir_version = self.data.number(MOST), self.data.number(MOST)
        inputs = tuple(self._port(self._new()) for _ in range(self.data.number(MOST)))
        nodes = tuple(self._node() for _ in range(self.data.number(MOST)))
        outputs = tuple(self._port(self._reference()) for _ in range(self.data.number(MOST)))
        if self.data.at != len(self.data.data):
            raise PackedError("the file's graph is longer than what it describes")
        return Graph(opset, ir_version, inputs, nodes, outputs)

    def _new(self) -> str:
        self.values.append(self.prefix + str(len(self.values)))
        return self.values[-1]

    def _port(self, value: str) -> Port:
        dtype = self.data.byte()
        if dtype >= len(NAMES_OF_DTYPES):
            raise PackedError("the file's graph has a number format that is not known")
        shape = tuple(self.data.number() for _ in range(self.data.number(64)))
        return Port(NAMES_OF_DTYPES[dtype], shape, value)

    def _reference(self) -> str:
        code = self.data.number()
        if code == ABSENT:
            return ""
        if code == NEXT_STORED:
            place, self.used = self.used, self.used + 1
        elif code - LAST_VALUE < len(self.values):
            return self.values[-1 - (code - LAST_VALUE)]
        else:
            place = code - LAST_VALUE - len(self.values)
        if place >= len(self.stored):
            raise PackedError("the file's graph uses a value that nothing before it gives")
        return self.stored[place]

    def _node(self) -> Node:
        operator = self.data.number()
        if operator >= len(OPERATORS):
            raise PackedError("the file's graph has an operator that is not known")
        counts = self.data.number(MOST)
        inputs = tuple(self._reference() for _ in range(counts // 4))
        outputs = counts % 4 + 1 if counts % 4 < 3 else self.data.number(MOST)
        attributes = tuple(self._attribute() for _ in range(self.data.number(MOST)))
        return Node(OPERATORS[operator], inputs, tuple(self._new() for _ in range(outputs)), attributes)

    def _attribute(self) -> Tuple[str, int, Any]:
        code = self.data.number()
        kind = code % 16
        if code // 16 >= len(ATTRIBUTES) or kind not in (FLOAT, INT, STRING, FLOATS, INTS, STRINGS):
            raise PackedError("the file's graph has an attribute that is not known")
        if kind < FLOATS:
            return ATTRIBUTES[code // 16], kind, self._item(kind)
        return ATTRIBUTES[code // 16], kind, [self._item(kind - 5) for _ in range(self.data.number(MOST))]

    def _item(self, kind: int) -> Any:
        if kind == FLOAT:
            return struct.unpack("<f", self.data.take(4))[0]
        if kind == INT:
            folded = self.data.number()
            return -((folded + 1) >> 1) if folded & 1 else folded >> 1
        return self.data.take(self.data.number())


def onnx_bytes(packed: Packed) -> bytes:
    """The bytes of an ONNX file of the graph, the stored tensors and the card (its fields are metadata, as JSON)."""
    graph = graph_of(packed)
    body = [_field(1, _node(node, place)) for place, node in enumerate(graph.nodes)] + [_field(2, b"packed")]
    for name, tensor in packed.tensors.items():
        dims = b"".join(_number(1, size) for size in tensor.shape)
        if tensor.dtype not in ONNX_TYPES:
            raise PackedError("ONNX has no tensors of " + tensor.dtype)
        bits = tensor.bits.astype("<u%d" % DTYPES[tensor.dtype]).tobytes()
        kind = _number(2, ONNX_TYPES[tensor.dtype])
        body.append(_field(5, dims + kind + _field(8, name.encode("utf-8")) + _field(9, bits)))
    body += [_field(11, _port(port)) for port in graph.inputs] + [_field(12, _port(port)) for port in graph.outputs]
    model = [
        _number(1, graph.ir_version),
        _field(8, _field(1, b"") + _number(2, graph.opset)),
        _field(7, b"".join(body)),
    ]
    for key, value in sorted(card_of(packed).items()):
        text = json.dumps(value).encode("utf-8")
        model.append(_field(14, _field(1, key.encode("utf-8")) + _field(2, text)))
    return b"".join(model)


def card_of(packed: Packed) -> Dict[str, Any]:
    """The card of a packed file; empty if it has none."""
    if not packed.card:
        return {}
    try:
        card = json.loads(packed.card.decode("utf-8"))
    except ValueError:
        raise PackedError("the file's card is no JSON")
    except RecursionError:
        raise PackedError("the file's card is nested too deeply")
    if not isinstance(card, dict):
        raise PackedError("the file's card is no JSON object")
    return card


def _number(field: int, value: int) -> bytes:
    return number_bytes(field << 3) + number_bytes(value & (1 << 64) - 1)


def _field(field: int, content: bytes) -> bytes:
    return number_bytes(field << 3 | 2) + number_bytes(len(content)) + content


def _node(node: Node, place: int) -> bytes:
    """A node; names of nodes are not stored, so it is called after its operator and place."""
    out = b"".join(_field(1, name.encode("utf-8")) for name in node.inputs)
    out += b"".join(_field(2, name.encode("utf-8")) for name in node.outputs)
    out += _field(3, ("%s_%d" % (node.operator, place)).encode("utf-8"))
    out += _field(4, node.operator.encode("utf-8"))
    return out + b"".join(_field(5, _attribute(*each)) for each in node.attributes)


def _attribute(name: str, kind: int, value: Any) -> bytes:
    items = value if kind >= FLOATS else [value]
    place = {FLOAT: 2, INT: 3, STRING: 4, FLOATS: 7, INTS: 8, STRINGS: 9}[kind]
    out = _field(1, name.encode("utf-8"))
    for item in items:
        if kind in (FLOAT, FLOATS):
            out += number_bytes(place << 3 | 5) + struct.pack("<f", item)
        elif kind in (INT, INTS):
            out += _number(place, item)
        else:
            out += _field(place, item)
    return out + _number(20, kind)


def _port(port: Port) -> bytes:
    sizes = b"".join(_field(1, _number(1, size) if size else _field(2, b"batch")) for size in port.shape)
    kind = _number(1, ONNX_TYPES.get(port.dtype, 0)) + _field(2, sizes)
    return _field(1, port.value.encode("utf-8")) + _field(2, _field(1, kind))
