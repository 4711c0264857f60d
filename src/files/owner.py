"""One living owner for each folder of results: a lock that ends with the process that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.contracts.errors import InputError

LOCK = ".owner.lock"


@contextmanager
def owning(folder: Path, lock: Path | None = None) -> Iterator[None]:
    """Own a folder while the block runs; the operating system gives it up if the process is killed.

    Args:
        folder: The folder; it must exist.
        lock: File of the lock; by default one in the folder.

    Raises:
        InputError: Another command, still at work, owns it.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock or folder / LOCK, mode=0o666)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{folder} belongs to another command that is still at work") from None
    try:
        yield
    finally:
        held.release()


def has_owner(folder: Path) -> bool:
    """Whether a living process owns ``folder``; the calling one counts, too."""
    from filelock import FileLock, Timeout

    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0, mode=0o666):
            return False
    except Timeout:
        return True
