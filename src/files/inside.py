"""Whether a file of a folder lies in it: a folder from elsewhere may hold links to anything."""

from __future__ import annotations

from pathlib import Path


def is_inside(path: Path, folder: Path) -> bool:
    """Whether ``path`` is a file that lies in ``folder``, or below it, when all links are followed."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False
