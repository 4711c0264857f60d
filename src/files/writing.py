"""Writing a file whole or not at all, so that neither an error nor a power cut leaves half of one."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.contracts.errors import InputError

CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP)  # what a file system answers that cannot flush a folder
LEAST_FREE_BYTES = 64 * 1024  # a disk with less is full
FICLONE = 0x40049409  # Linux: lets a file share the blocks of another until one of the two is written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace ``path`` by what is written in the block; if the block fails, ``path`` stays as it was.

    The part file lies in the folder of ``path`` and ends in ``.part``; no two processes or threads share one. Its
    content reaches the disk before it gets the name ``path``, so that after a power cut ``path`` has its old content
    or its new one. Its permissions are those of any new file in the folder, also if a library wrote it with others.

    Args:
        path: The file to write; its folder must exist.

    Yields:
        Path of the part file, which does not exist yet.

    Raises:
        OSError: The disk is full; the error names the folder of ``path``.
    """
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        permissions = _permissions_of_new_file(part)
        yield part
        part.chmod(permissions)
        _flush(part)
        os.replace(part, path)
    except BaseException as error:
        full = _fails_for_full_disk(error, part)
        part.unlink(missing_ok=True)
        if full:
            raise OSError(errno.ENOSPC, "the disk is full", str(path.parent)) from error
        raise
    _flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8, its line ends as they are, in place of ``path``."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` in place of ``path``."""
    with replacing(path) as part:
        part.write_bytes(data)


def copy_file(source: Path, to: Path) -> None:
    """Write the content of ``source`` in place of ``to``, which shares nothing with it that a writer could change.

    A file system that can share blocks until one of the two files is written (Btrfs, XFS) does so.
    """
    with replacing(to) as part:
        if not _shares_blocks(source, part):
            shutil.copyfile(source, part)


def _shares_blocks(source: Path, part: Path) -> bool:
    """Let ``part`` share the blocks of ``source``; False if the file system cannot."""
    if sys.platform != "linux":
        return False
    import fcntl

    with source.open("rb") as read, part.open("wb") as written:
        try:
            fcntl.ioctl(written.fileno(), FICLONE, read.fileno())
        except OSError:
            return False
    return True


def _permissions_of_new_file(path: Path) -> int:
    """The permissions that the umask, or the folder's access list, gives a new file."""
    path.touch()
    permissions = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return permissions


def _fails_for_full_disk(error: BaseException, part: Path) -> bool:
    """Whether ``part`` could not be written because its disk is full; libraries say that in errors of their own."""
    if not isinstance(error, Exception):
        return False
    written = (error.filename2 or error.filename) if isinstance(error, OSError) else None  # a copy names both files
    if written is not None and str(written) != str(part):
        return False
    if "No space left" in str(error):
        return True
    if isinstance(error, InputError) or not part.parent.is_dir():
        return False
    return shutil.disk_usage(part.parent).free < LEAST_FREE_BYTES


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
