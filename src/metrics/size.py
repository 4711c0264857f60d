"""Bytes of a file on disk, gzipped and packed, and its checksum."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.contracts import Lowered, Target


def parts_of(target: Target, file: Path) -> tuple[Path, ...]:
    """The existing parts of an exported file: the file itself first, then those that its target writes beside it."""
    beside = (file.with_suffix(f".{ending}") for ending in target.beside)
    return (file, *(part for part in beside if part.is_file()))


def size_bytes(parts: Iterable[Path]) -> int:
    """Bytes of all parts together, on disk."""
    return sum(path.stat().st_size for path in parts)


def size_gzip_bytes(parts: Iterable[Path]) -> int:
    """Bytes of all parts, each gzipped by itself at level 9."""
    return sum(len(gzip.compress(path.read_bytes(), 9, mtime=0)) for path in parts)


def size_packed_bytes(result: Lowered) -> int:
    """Bytes that the weights of a network take in a packed file of the profile ``fast``, without its graph.

    Args:
        result: The network; weights that are stored as integers count as such, with their scales.

    Raises:
        ModuleNotFoundError: numba is not installed.
    """
    from src.coding.container import pack, tensor_of

    integers = {**result.integers, **result.weights}
    tensors = {}
    for name, value in result.model.state_dict().items():
        stored = integers.get(name)
        if stored is None:
            tensors[name] = tensor_of(value.detach().cpu().numpy())
            continue
        tensors[name] = tensor_of(stored.integers.detach().cpu().numpy())
        tensors[f"{name}.scale"] = tensor_of(stored.scale.detach().cpu().numpy())
        if bool(stored.zero_point.any()):
            tensors[f"{name}.zero_point"] = tensor_of(stored.zero_point.detach().cpu().numpy())
    return len(pack(tensors, "fast"))


def sha256(parts: Iterable[Path]) -> str:
    """SHA-256 over the bytes of all parts in order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in parts:
        digest.update(path.read_bytes())
    return digest.hexdigest()
