"""All that can be seen of a folder: what a command that touches nothing leaves equal."""

from __future__ import annotations

import hashlib
from pathlib import Path


def listing(folder: Path) -> dict[str, tuple[int, int, str]]:
    """The inode, the time of the last change, and the checksum of everything in ``folder``, and of itself."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in [folder, *folder.rglob("*")]
    }
