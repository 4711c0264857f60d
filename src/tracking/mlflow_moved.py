"""A database of MLflow's that was moved with its project: it names the place of every file by an absolute path."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

SQLITE = "sqlite:///"
ARTIFACTS = "mlartifacts"  # folder of all files, beside the database
PLACES = (  # tables and columns that hold such a path
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def artifact_root(uri: str) -> str | None:
    """Return the address of the folder of all files, with a slash at its end; None if the store is a server."""
    if not uri.startswith(SQLITE):
        return None
    database = Path(uri.removeprefix(SQLITE).partition("?")[0]).resolve()
    return f"{(database.parent / ARTIFACTS).as_uri()}/"


def mend_moved(uri: str) -> list[str]:
    """Let a database that was moved, or copied, with its files name their new place.

    A database that was moved alone goes on naming the files where they are.

    Returns:
        A line for a person if something was mended.
    """
    here = artifact_root(uri)
    database = Path(uri.removeprefix(SQLITE).partition("?")[0])
    if here is None or not database.is_file():
        return []
    try:
        with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
            rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
            roots = {
                root for root in _roots(rows) if root != here and (_folder(here).is_dir() or not _folder(root).is_dir())
            }
            for root in roots:
                for table, column in PLACES:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (here, len(root) + 1, len(root), root),
                    )
    except sqlite3.Error:  # no database, or not yet one of MLflow's: MLflow says what is wrong with it
        return []
    return [f"The tracking store was moved: its files are now looked for in {_folder(here)}" for _ in roots][:1]


def _roots(experiments: Iterable[tuple[str, str | None]]) -> Iterable[str]:
    """The folders of all files that experiments name; those of experiments that a user put elsewhere are left out."""
    for name, location in experiments:
        root = (location or "").removesuffix(quote(name))
        if root != location and root.endswith(f"/{ARTIFACTS}/"):
            yield root


def _folder(address: str) -> Path:
    """The folder of a ``file://`` address."""
    return Path(unquote(urlsplit(address).path))
