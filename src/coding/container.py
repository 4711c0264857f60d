"""The packed file as bytes: what stands before, between and after the tensors."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.coding import tensors
from src.coding.errors import DnncError
from src.coding.freedom import rearranged
from src.coding.huffman import HuffmanReader, HuffmanWriter
from src.coding.mixed import MixedReader, MixedWriter
from src.coding.planes import plane_of
from src.coding.streams import StreamsReader, StreamsWriter
from src.device import packed
from src.device.packed import BOARD, FAST, HUFFMAN, NAMES_OF_DTYPES, PROFILES, SMALL, Entry, Packed, Tensor
from src.device.packed_graph import Graph, parsed_graph
from src.device.packed_streams import DTYPES, PackedError, number_bytes

READERS: dict[int, Any] = {FAST: StreamsReader, BOARD: StreamsReader, SMALL: MixedReader, HUFFMAN: HuffmanReader}


def writer_of(profile: int) -> Any:
    """A writer of the content of tensors."""
    if profile == SMALL:
        return MixedWriter()
    return HuffmanWriter(profile) if profile == HUFFMAN else StreamsWriter(profile)


def pack(
    tensors_by_name: Mapping[str, Tensor], profile: str, *, card: bytes = b"", graph: bytes = b"", exact: str = "bits"
) -> bytes:
    """Pack tensors into the bytes of a file.

    Args:
        tensors_by_name: The tensors.
        profile: ``fast``, ``board``, ``small`` or ``huffman``.
        card, graph: What else the file holds.
        exact: ``bits``: ``unpack`` gives back the same to the bit. ``outputs``: the network's outputs are equal to
            float rounding (``freedom``); needs a graph.

    Raises:
        DnncError: The profile is unknown, or a name cannot be packed.
    """
    if profile not in PROFILES:
        raise DnncError(f"there is no profile '{profile}'; there are {', '.join(PROFILES)}")
    if exact == "outputs":
        nodes = parsed_graph(graph, list(tensors_by_name)) if graph else Graph(0, 0, (), (), ())
        tensors_by_name = rearranged(tensors_by_name, nodes, lambda each: len(pack(each, profile)))
    elif exact != "bits":
        raise DnncError(f"exact is bits or outputs, and not '{exact}'")
    number = PROFILES.index(profile)
    names = "\n".join(tensors_by_name)
    for name in tensors_by_name:
        if (
            any(ord(letter) < 32 for letter in name)
            or ".." in name.replace("\\", "/").split("/")
            or "\ud800" <= max(name, default=" ") <= "\udfff"
        ):
            raise DnncError(f"a tensor is called {name!r}, which a packed file cannot hold")
    encoded = names.encode()
    text = number_bytes(len(encoded)) + encoded + number_bytes(len(card)) + card + graph
    if len(text) > packed.LARGEST_TEXT:
        raise DnncError(f"names, card and graph take {len(text):,} bytes; a packed file holds {packed.LARGEST_TEXT:,}")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, packed.WORDS)
    deflated = deflater.compress(text) + deflater.flush()
    head = packed.MAGIC + bytes([packed.VERSION, number])
    head += number_bytes(len(text)) + number_bytes(len(deflated)) + deflated + number_bytes(len(tensors_by_name))
    writer, entries = writer_of(number), b""
    for name, tensor in tensors_by_name.items():
        entries += _written(name, tensor, writer, number)
    body = head + entries + writer.close()
    claimed = sum(tensor.bits.nbytes for tensor in tensors_by_name.values())
    body += bytes(max(0, -(-(claimed - packed.FREE_BYTES) // packed.EXPANSION) - len(body) - 4))
    return body + zlib.crc32(body).to_bytes(4, "little")


def _written(name: str, tensor: Tensor, writer: Any, profile: int) -> bytes:
    """Write the content of a tensor, and return its entry."""
    bits = np.ascontiguousarray(tensor.bits).reshape(-1)
    tensor = Tensor(tensor.dtype, tensor.shape, bits)
    plane = plane_of(tensor) if profile == SMALL else (1, 1)
    if len(tensor.shape) > 2:
        plane = (tensor.shape[-1], int(np.prod(tensor.shape[2:])))
    entry = Entry(name, tensor.dtype, tensor.shape, tensors.checksum(bits), packed.RAW, plane)
    if bits.size:
        way = tensors.cheapest(tensor, entry, lambda each: _bits(each, tensor, entry, profile))
        tensors.write(way, tensor, entry, writer)
        entry = entry._replace(way=way.number)
    else:
        writer.begin()
        writer.finish()
    return entry_bytes(entry)


def _bits(way: tensors.Way, tensor: Tensor, entry: Entry, profile: int) -> float:
    """Bits that a way takes, written by a writer of its own."""
    scratch = writer_of(profile)
    tensors.write(way, tensor, entry, scratch)
    return float(scratch.bits())


def entry_bytes(entry: Entry) -> bytes:
    """What the file says of a tensor before its content."""
    dimensions = len(entry.shape)
    kind = NAMES_OF_DTYPES.index(entry.dtype)
    out = bytes([kind | min(dimensions, 7) << 5]) + (number_bytes(dimensions) if dimensions >= 7 else b"")
    out += b"".join(number_bytes(size) for size in entry.shape) + entry.checksum.to_bytes(2, "little")
    if dimensions <= 2 and entry.plane != (1, 1):
        return out + bytes([entry.way + 8]) + number_bytes(entry.plane[0]) + number_bytes(entry.plane[1])
    return out + bytes([entry.way])


def unpack(content: bytes) -> Packed:
    """Read the bytes of a packed file.

    Raises:
        DnncError: They are no packed file, are damaged or of a later version, or claim more than they can hold.
    """
    try:
        return packed.parsed(content, READERS)
    except PackedError as error:
        raise DnncError(str(error)) from error


def read(path: Path) -> Packed:
    """Read a packed file; raise DnncError as ``unpack`` does, with the file's name."""
    try:
        return unpack(packed.content_of(path))
    except DnncError as error:
        raise DnncError(f"{path}: {error}") from error


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor of an array's bits.

    Raises:
        DnncError: The array is of a number format that numpy has and a packed file has not.
    """
    kind = {"f": "F", "i": "I", "u": "U", "c": "C", "b": "BOOL"}.get(array.dtype.kind, "?")
    dtype = kind if kind == "BOOL" else f"{kind}{8 * array.dtype.itemsize}"
    if dtype not in DTYPES:
        raise DnncError(f"an array of {array.dtype} cannot be packed")
    return Tensor(dtype, array.shape, np.ascontiguousarray(array).reshape(-1).view(f"<u{DTYPES[dtype]}"))
