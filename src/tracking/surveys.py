"""The file in the folder of a survey or search that names the parent run of its members."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from src.files.writing import write_text

PARENT = ".mlflow_parent"  # every store uses this file; its name is from when MLflow was the only one
# What is logged with it: records, and what ``src.reporting`` makes of them.
FILES = ("survey.json", "search.json", "results.json", "metrics.json", "front.png", "config.yaml")
REPORTS = ("report.html", "report.md", "table.csv")
DESCRIPTION = "report.md"


@dataclass(frozen=True)
class Parent:
    """The parent run of a survey or search.

    Attributes:
        run_id: Identifier of the run in its store; empty until the store has it.
        uri: Address of the store.
        key: Identifies the run before the store has given it an identifier.
    """

    run_id: str
    uri: str
    key: str


def read_parent(folder: Path, uri: str) -> Parent | None:
    """Return the parent run of ``folder`` in the store at ``uri``; None if no member has opened one there."""
    parent = _read(folder, uri)
    return parent if parent is not None and parent.run_id else None


def open_parent(folder: Path, uri: str, opened: Callable[[str], str]) -> str:
    """Return the identifier of the parent run of ``folder``, which the first member opens.

    Args:
        folder: Folder of the survey or search.
        uri: Address of the store.
        opened: Returns the identifier of the run of a key, found in the store or created.
    """
    parent = _read(folder, uri)
    if parent is None:
        parent = Parent("", uri, uuid.uuid4().hex)
        _write(folder, parent)  # before the store is asked: a command that is killed here finds the run by its key
    if not parent.run_id:
        parent = replace(parent, run_id=opened(parent.key))
        _write(folder, parent)
    return parent.run_id


def forget_parent(folder: Path) -> None:
    """Let the next member open a new parent run."""
    (folder / PARENT).unlink(missing_ok=True)


def _read(folder: Path, uri: str) -> Parent | None:
    """The parent run as the file names it; None if it names none in this store, or cannot be read."""
    try:
        lines = (folder / PARENT).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    if len(lines) == 2:  # as it was written before runs had keys
        lines.append(lines[0])
    return Parent(*lines) if len(lines) == 3 and lines[1] == uri and lines[2] else None


def _write(folder: Path, parent: Parent) -> None:
    write_text(folder / PARENT, f"{parent.run_id}\n{parent.uri}\n{parent.key}\n")
