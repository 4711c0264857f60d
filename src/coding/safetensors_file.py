"""Files of weights in the format safetensors, read and written without torch, every number format to the bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.coding.errors import DnncError
from src.device.packed import Tensor
from src.device.packed_streams import DTYPES
from src.files.writing import replacing

LARGEST_HEADER = 100_000_000  # bytes, as the format allows


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Raises:
        DnncError: It is no safetensors file, or has a number format that cannot be packed.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise DnncError(f"{path} is no safetensors file")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise DnncError(f"{path} is no safetensors file: its header is no JSON") from error
        content = file.read()
    if not isinstance(header, dict):
        raise DnncError(f"{path} is no safetensors file: its header is no JSON object")
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, record, content) for name, record in header.items()}


def _tensor(path: Path, name: str, record: object, content: bytes) -> Tensor:
    try:
        dtype, shape = record["dtype"], tuple(int(size) for size in record["shape"])  # type: ignore[index]
        start, end = (int(place) for place in record["data_offsets"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError) as error:
        raise DnncError(f"{path} is no safetensors file: '{name}' lacks its type, shape or place") from error
    if dtype not in DTYPES:
        raise DnncError(f"{path}: '{name}' is of {dtype}, which cannot be packed")
    elements = 1
    for size in shape:
        elements *= size
    if min(shape, default=0) < 0 or not 0 <= start <= end <= len(content) or end - start != elements * DTYPES[dtype]:
        raise DnncError(f"{path} is no safetensors file: '{name}' has a place that does not fit its shape")
    return Tensor(dtype, shape, np.frombuffer(content[start:end], f"<u{DTYPES[dtype]}"))


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors in place of ``path``, in their order."""
    header, at = {}, 0
    for name, tensor in tensors.items():
        end = at + tensor.bits.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.bits).tobytes())
