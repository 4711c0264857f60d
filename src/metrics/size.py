"""Bytes of a file on disk and gzipped, and its checksum."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.contracts import Target


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


def sha256(parts: Iterable[Path]) -> str:
    """SHA-256 over the bytes of all parts in order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in parts:
        digest.update(path.read_bytes())
    return digest.hexdigest()
