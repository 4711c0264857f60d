"""Checksums of files; a file is read again only if it may have changed since it was last read."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.files.writing import write_text


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(files: Mapping[str, Path], notes: Path) -> dict[str, str]:
    """Return the SHA-256 of each file; one that is as it was when it was last read is not read again.

    A file is as it was if its signature is: size, inode, time of modification, and time of change, which no program
    can set. Two changes within one tick of the file system's clock have the same time, so that a signature counts
    only if its time of change is before that of the notes.

    Args:
        files: The files by the names that ``notes`` gives them.
        notes: JSON file that holds the checksum and the signature of each file, by name. It is written if a file was
            read; if it cannot be written, the files are read again next time.

    Raises:
        OSError: A file is missing or cannot be read.
    """
    noted, noted_at = _read_notes(notes)
    found: dict[str, list[Any]] = {}
    for name, path in files.items():
        signature = _signature(path)
        known = noted.get(name)
        if isinstance(known, list) and known[1:] == signature and signature[-1] < noted_at:
            found[name] = known
        else:
            found[name] = [sha256_of(path), *signature]
    if any(found[name] is not noted.get(name) for name in files):
        with contextlib.suppress(OSError):
            write_text(notes, json.dumps(found))
    return {name: each[0] for name, each in found.items()}


def _signature(path: Path) -> list[int]:
    """What differs after a file was written or replaced: size, inode, and two times in nanoseconds."""
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _read_notes(path: Path) -> tuple[dict[str, Any], int]:
    """The notes and when they were written; none if they are missing or damaged."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        return (noted, path.stat().st_mtime_ns) if isinstance(noted, dict) else ({}, 0)
    except (OSError, ValueError):
        return {}, 0
