"""Writing a file whole or not at all, so that neither an error nor a power cut leaves half of one."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP)  # what a file system answers that cannot flush a folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace ``path`` by what is written in the block; if the block fails, ``path`` stays as it was.

    The part file lies in the folder of ``path`` and ends in ``.part``; no two processes or threads share one. Its
    content reaches the disk before it gets the name ``path``, so that after a power cut ``path`` has its old content
    or its new one.

    Args:
        path: The file to write; its folder must exist.

    Yields:
        Path of the part file, which does not exist yet.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield part
        _flush(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8, its line ends as they are, in place of ``path``."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` in place of ``path``."""
    with replacing(path) as part:
        part.write_bytes(data)


def _flush(path: Path) -> None:
    """Wait until the content of a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk, if its file system can do that."""
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH:
            raise
