"""An ONNX model as the graph, the tensors and the card of a packed file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.coding.errors import DnncError
from src.contracts.errors import first_line
from src.device.packed import NAMES_OF_DTYPES, Tensor
from src.device.packed_graph import (
    ABSENT,
    FLOAT,
    FLOATS,
    INT,
    INTS,
    LAST_VALUE,
    NEXT_STORED,
    ONNX_TYPES,
    STRING,
    STRINGS,
)
from src.device.packed_streams import DTYPES, number_bytes
from src.device.vocabulary import ATTRIBUTES, OPERATORS

DTYPE_OF = {number: name for name, number in ONNX_TYPES.items()}
FIELDS = {FLOAT: "f", INT: "i", STRING: "s", FLOATS: "floats", INTS: "ints", STRINGS: "strings"}


def from_onnx(path: Path) -> tuple[dict[str, Tensor], bytes, bytes]:
    """The tensors of an ONNX file in the order of their first use, its graph, and its metadata as a card.

    Raises:
        DnncError: It is no ONNX file, or has what a packed graph cannot hold; the message names the first.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's exceptions and others
        raise DnncError(f"{path} cannot be read as an ONNX file: {first_line(error)}") from error
    try:
        return _Writer(model).written()
    except DnncError as error:
        raise DnncError(f"{path}: {error}") from error


class _Writer:
    """Writes the graph of an ONNX model.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.given = {each.name: _tensor(each) for each in model.graph.initializer}
        self.nodes = [node for node in model.graph.node if not self._is_constant(node)]
        self.stored: dict[str, Tensor] = {}
        self.values: list[str] = []
        self.out = bytearray()

    def _is_constant(self, node: Any) -> bool:
        """Take a Constant's tensor as a stored one."""
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            return False
        from onnx import helper, numpy_helper

        value = helper.get_attribute_value(node.attribute[0])
        if node.attribute[0].name != "value":
            value = numpy_helper.from_array(
                np.asarray(value, np.float32 if "float" in node.attribute[0].name else np.int64)
            )
        self.given[node.output[0]] = _tensor(value)
        return True

    def written(self) -> tuple[dict[str, Tensor], bytes, bytes]:
        """The stored tensors, the graph and the card."""
        opset = next((each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx")), 0)
        self._numbers(opset, self.model.ir_version)
        inputs = [each for each in self.model.graph.input if each.name not in self.given]
        self._numbers(len(inputs))
        for each in inputs:
            self.values.append(each.name)
            self._port(each)
        self._numbers(len(self.nodes))
        for node in self.nodes:
            self._node(node)
        self._numbers(len(self.model.graph.output))
        for each in self.model.graph.output:
            self._reference(each.name)
            self._port(each)
        return self.stored, bytes(self.out), card_bytes({each.key: each.value for each in self.model.metadata_props})

    def _numbers(self, *values: int) -> None:
        for value in values:
            self.out += number_bytes(value)

    def _port(self, port: Any) -> None:
        kind = port.type.tensor_type
        if kind.elem_type not in DTYPE_OF:
            raise DnncError(f"'{port.name}' is no tensor of a number format that can be packed")
        sizes = kind.shape.dim
        self.out.append(NAMES_OF_DTYPES.index(DTYPE_OF[kind.elem_type]))
        self._numbers(len(sizes), *(size.dim_value for size in sizes))

    def _reference(self, name: str) -> None:
        if not name:
            self._numbers(ABSENT)
        elif name in self.values:
            self._numbers(LAST_VALUE + self.values[::-1].index(name))
        elif name in self.stored:
            self._numbers(LAST_VALUE + len(self.values) + list(self.stored).index(name))
        elif name in self.given:
            self._numbers(NEXT_STORED)
            self.stored[name] = self.given[name]
        else:
            raise DnncError(f"nothing before it gives the value '{name}'")

    def _node(self, node: Any) -> None:
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            raise DnncError(f"the operator {node.op_type} cannot be packed: it is not in the vocabulary")
        self._numbers(OPERATORS.index(node.op_type), 4 * len(node.input) + min(len(node.output) - 1, 3))
        for name in node.input:
            self._reference(name)
        if len(node.output) > 3:
            self._numbers(len(node.output))
        self._numbers(len(node.attribute))
        for attribute in node.attribute:
            if attribute.name not in ATTRIBUTES or attribute.type not in FIELDS:
                raise DnncError(f"the attribute {attribute.name} of {node.op_type} cannot be packed")
            self._numbers(16 * ATTRIBUTES.index(attribute.name) + attribute.type)
            value = getattr(attribute, FIELDS[attribute.type])
            if attribute.type >= FLOATS:
                self._numbers(len(value))
            for item in value if attribute.type >= FLOATS else [value]:
                self._item(item, attribute.type)
        self.values += node.output

    def _item(self, item: Any, kind: int) -> None:
        if kind in (FLOAT, FLOATS):
            self.out += struct.pack("<f", item)
        elif kind in (INT, INTS):
            self._numbers(-2 * item - 1 if item < 0 else 2 * item)
        else:
            self._numbers(len(item))
            self.out += item


def card_bytes(fields: Mapping[str, str]) -> bytes:
    """Fields whose values are JSON as one JSON object; empty if there are none."""
    if not fields:
        return b""
    values = {}
    for key, text in fields.items():
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()


def _tensor(proto: Any) -> Tensor:
    """A tensor of an ONNX model by its bits."""
    from onnx import numpy_helper

    if proto.data_type not in DTYPE_OF:
        raise DnncError(f"the tensor '{proto.name}' has a number format that cannot be packed")
    dtype = DTYPE_OF[proto.data_type]
    shape: Sequence[int] = tuple(proto.dims)
    bits = (
        proto.raw_data if proto.HasField("raw_data") else np.ascontiguousarray(numpy_helper.to_array(proto)).tobytes()
    )
    return Tensor(dtype, tuple(shape), np.frombuffer(bits, f"<u{DTYPES[dtype]}"))
