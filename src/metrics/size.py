"""Bytes: on disk, and gzipped as they travel."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.contracts import Target


def parts_of(target: Target, file: Path) -> tuple[Path, ...]:
    """A file and what its target wrote beside it, the file first."""
    beside = (file.with_suffix(f".{ending}") for ending in getattr(target, "beside", ()))
    return (file, *(part for part in beside if part.is_file()))


def size_bytes(parts: Iterable[Path]) -> int:
    """Of all parts together, on disk."""
    return sum(path.stat().st_size for path in parts)


def size_gzip_bytes(parts: Iterable[Path]) -> int:
    """Of all parts, each gzipped at level 9 by itself."""
    return sum(len(gzip.compress(path.read_bytes(), 9, mtime=0)) for path in parts)


def sha256(parts: Iterable[Path]) -> str:
    """Over the bytes of all parts in order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in parts:
        digest.update(path.read_bytes())
    return digest.hexdigest()
