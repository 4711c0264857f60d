"""The file in the folder of a survey or search that names the parent run of its members."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from src.files.writing import write_text

PARENT = ".mlflow_parent"  # every store uses this file; its name is from when MLflow was the only one


@dataclass(frozen=True)
class Parent:
    """The parent run of a survey or search.

    Attributes:
        run_id: Identifier of the run in its store.
        uri: Address of the store.
    """

    run_id: str
    uri: str


def read_parent(folder: Path, uri: str) -> Parent | None:
    """Return the parent run of ``folder`` in the store at ``uri``; None if no member has opened one there."""
    file = folder / PARENT
    if not file.exists():
        return None
    parent = Parent(*file.read_text().splitlines())
    return parent if parent.uri == uri else None


def write_parent(folder: Path, parent: Parent) -> None:
    """Name the parent run of the members that follow."""
    write_text(folder / PARENT, f"{parent.run_id}\n{parent.uri}\n")


def forget_parent(folder: Path) -> None:
    """Let the next member open a new parent run."""
    (folder / PARENT).unlink(missing_ok=True)
