"""Read a packed file (``.dnnc``) with numpy alone; docs/format.md describes every byte.

The profiles ``fast`` and ``board`` are read here. ``small`` and ``huffman`` need the workbench, which hands its own
readers to ``read``.
"""

import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np

from .packed_streams import DTYPES, Bytes, PackedError, Streams

MAGIC = b"DNNC"
VERSION = 1
FAST, BOARD, SMALL, HUFFMAN = range(4)
PROFILES = ("fast", "board", "small", "huffman")
RAW, CODEBOOK, UNIFORM, SPARSE = range(4)
NAMES_OF_DTYPES = tuple(DTYPES)
INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
FREE_BYTES, EXPANSION = 1 << 20, 4096  # a file may unpack to so many bytes, and to so many for each of its own
LARGEST_TEXT = 1 << 20  # bytes of names, card and graph together
LARGEST_COUNT = 1 << 20  # tensors
WORDS = (
    b'"crop":null"interpolation":"bilinear""mean":[0."std":[0."image_shape":[3,32,32]1,28,28"classes":["airplane",'
    + (
        b'"0","1","2","3","4","5","6","7","8","9"]"identity":"running_meanrunning_varnum_batches_trackedfeatures.classifier.'
        b"layer1.0.conv1.weightlayer2.1.bn1.weight\ndownsample.0.\nnet.conv2.bias\nfc1.weight\nfc1.bias\nfc2.weight\nfc2.bias\n"
    )
)


class Tensor(NamedTuple):
    """A tensor as its bytes.

    Attributes:
        dtype: As safetensors calls it: ``F32``, ``BF16``, ``I64``, ...
        shape: Its sizes; empty for a scalar.
        bits: Its elements in row-major order as unsigned integers of the same width.
    """

    dtype: str
    shape: Tuple[int, ...]
    bits: np.ndarray


class Entry(NamedTuple):
    """What the file says of a tensor before its content.

    Attributes:
        name, dtype, shape: As they were packed.
        checksum: The low 16 bits of the CRC-32 of its bytes.
        way: ``RAW``, ``CODEBOOK``, ``UNIFORM`` or ``SPARSE``.
        plane: Width of the image's plane and elements of it, for a matrix; ``(1, 1)`` if there is none.
    """

    name: str
    dtype: str
    shape: Tuple[int, ...]
    checksum: int
    way: int
    plane: Tuple[int, int]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return product(self.shape)


def product(sizes: Tuple[int, ...]) -> int:
    """The product of sizes; 1 if there is none."""
    result = 1
    for size in sizes:
        result *= size
    return result


class Packed(NamedTuple):
    """A packed file.

    Attributes:
        profile: One of ``PROFILES``.
        tensors: By name.
        card, graph: Their bytes; empty if the file has none.
        entries, sizes: What the file says of each tensor, and the bytes that its content takes.
    """

    profile: str
    tensors: Dict[str, Tensor]
    card: bytes
    graph: bytes
    entries: Tuple[Entry, ...]
    sizes: Tuple[float, ...]


Readers = Dict[int, Callable[[Bytes], Any]]


def read(path: Path, readers: Readers = {FAST: Streams, BOARD: Streams}) -> Packed:  # noqa: B006
    """Read a packed file.

    Raises:
        PackedError: It is no such file, is damaged, is of a later version or of a profile that ``readers`` lacks, or
            claims more than it can hold.
        OSError: The file cannot be read.
    """
    try:
        return parsed(content_of(path), readers)
    except PackedError as error:
        raise PackedError("{}: {}".format(path, error))


def content_of(path: Path) -> bytes:
    """All bytes of a file that begins as a packed file does; of another only its first bytes are read."""
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
        return start + file.read() if start == MAGIC else start


def parsed(content: bytes, readers: Readers) -> Packed:
    """Read the bytes of a packed file."""
    data, profile, entries, card, graph = opened(content)
    if profile not in readers:
        raise PackedError("a file of the profile '{}' is read by the workbench only".format(PROFILES[profile]))
    stream = readers[profile](data)
    tensors, sizes = {}, []
    for entry in entries:
        before = stream.position()
        tensors[entry.name] = tensor_of(entry, stream)
        sizes.append(stream.position() - before)
    return Packed(PROFILES[profile], tensors, card, graph, tuple(entries), tuple(sizes))


def opened(content: bytes) -> Tuple[Bytes, int, List[Entry], bytes, bytes]:
    """Check the whole file, and read all that stands before the content of tensors."""
    if content[:4] != MAGIC:
        raise PackedError("this is no packed file")
    if len(content) < 11:
        raise PackedError("the file was cut off")
    if content[4] != VERSION:
        raise PackedError("this is a packed file of version {}; version {} is known here".format(content[4], VERSION))
    if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
        raise PackedError("the file is damaged: its checksum is wrong")
    data = Bytes(content[:-4])
    data.take(5)
    profile = data.byte()
    if profile >= len(PROFILES):
        raise PackedError("the file has a profile that is not known")
    text = Bytes(_inflated(data))
    names = text.take(text.number()).decode("utf-8", "replace")
    card = text.take(text.number())
    graph = text.rest()
    count = data.number(LARGEST_COUNT)
    listed = names.split("\n") if count else []
    if len(listed) != count or len(set(listed)) != count:
        raise PackedError("the names of the tensors are not as many as the tensors, or not all different")
    entries = [_entry(data, name) for name in listed]
    most = FREE_BYTES + EXPANSION * len(content)
    claimed = sum(entry.elements * DTYPES[entry.dtype] for entry in entries)
    if claimed > most:
        raise PackedError(
            "the file claims {:,} bytes of tensors; one of its length holds at most {:,}".format(claimed, most)
        )
    return data, profile, entries, card, graph


def _inflated(data: Bytes) -> bytes:
    """The names, the card and the graph, deflated with the dictionary ``WORDS``."""
    length = data.number(LARGEST_TEXT)
    inflater = zlib.decompressobj(-15, zdict=WORDS)
    try:
        text = inflater.decompress(data.take(data.number()), LARGEST_TEXT)
    except zlib.error:
        raise PackedError("the file's text cannot be inflated")
    if len(text) != length or not inflater.eof:
        raise PackedError("the file's text has another length than the file says")
    return text


def _entry(data: Bytes, name: str) -> Entry:
    kind = data.byte()
    sizes = kind >> 5 if kind >> 5 < 7 else data.number(64)
    if kind & 31 >= len(NAMES_OF_DTYPES):
        raise PackedError("a tensor has a number format that is not known")
    if any(ord(letter) < 32 for letter in name) or ".." in name.replace("\\", "/").split("/"):
        raise PackedError("a tensor has a name that is not allowed")
    shape = tuple(data.number() for _ in range(sizes))
    checksum = int.from_bytes(data.take(2), "little")
    way = data.byte()
    plane = (1, 1)
    if way >= 8:
        plane = (data.number(1 << 31), data.number(1 << 31))
    elif len(shape) > 2:
        plane = (shape[-1], product(shape[2:]))
    entry = Entry(name, NAMES_OF_DTYPES[kind & 31], shape, checksum, way % 8, plane)
    if way % 8 > SPARSE or way >= 16:
        raise PackedError("a tensor is written in a way that is not known")
    return entry


def tensor_of(entry: Entry, stream: Any) -> Tensor:
    """Read the content of a tensor and compare its checksum."""
    stream.begin()
    count, dtype = entry.elements, entry.dtype
    width = "<u%d" % DTYPES[dtype]
    if count == 0:
        bits = np.zeros(0, width)
    elif entry.way == RAW:
        bits = stream.values(count, dtype)
    else:
        bits = _of_levels(entry, stream).view(width)
    stream.finish()
    if zlib.crc32(bits.tobytes()) & 0xFFFF != entry.checksum:
        raise PackedError("the tensor {} is damaged: its checksum is wrong".format(entry.name))
    return Tensor(dtype, entry.shape, bits)


def matrix_of(entry: Entry) -> Tuple[int, int]:
    """Rows and columns of a tensor: its first size, and the product of the others."""
    rows = entry.shape[0] if len(entry.shape) > 1 else 1
    columns = entry.elements // max(1, rows)
    width, plane = entry.plane
    if plane < 1 or width < 1 or width > plane or (columns % plane if columns else 0):
        raise PackedError("a tensor has a plane that does not divide it")
    return rows, columns


def _of_levels(entry: Entry, stream: Any) -> np.ndarray:
    """The bits of a tensor that was written as levels."""
    rows, columns = matrix_of(entry)
    dtype, count = entry.dtype, entry.elements
    width = "<u%d" % DTYPES[dtype]
    if entry.way == UNIFORM:
        if dtype == "F32":
            step = stream.values(1, "F32").view("<f4")
            with np.errstate(all="ignore"):
                return stream.levels(rows, columns, entry.plane).astype("<f4") * step
        if dtype not in INTEGERS:
            raise PackedError("a tensor of {} cannot have uniform levels".format(dtype))
        return stream.levels(rows, columns, entry.plane).astype(width)
    if entry.way == CODEBOOK:
        size = stream.number(count)
        zero = stream.number(max(0, size - 1))
        codebook = stream.codebook(size, dtype)
        ranks = stream.levels(rows, columns, entry.plane).astype(np.int64) + zero
        if size < 1 or ranks.min() < 0 or ranks.max() >= size:
            raise PackedError("a tensor has a rank that is not in its codebook")
        return codebook[ranks]
    positions = np.flatnonzero(stream.levels(rows, columns, entry.plane))
    bits = np.zeros(count, width)
    bits[positions] = stream.values(len(positions), dtype)
    return bits
