"""Bytes: on disk, and gzipped as they travel."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path


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
