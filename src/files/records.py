"""JSON records (``results.json``, ``survey.json``, ``stage.json``), each with the version of its schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.contracts.errors import InputError
from src.device.schema import read_json
from src.files.writing import write_text

SCHEMA = 2  # records of schema 1 do not name their schema


class LaterSchemaError(InputError):
    """A record was written by a later version of the workbench."""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as a JSON object in place of ``path``, with ``"schema"`` as its first key.

    Raises:
        TypeError: ``content`` holds something that JSON cannot; ``path`` stays as it was.
        ValueError: ``content`` holds NaN or an infinite number; ``path`` stays as it was.
    """
    record = {"schema": SCHEMA} | {key: value for key, value in content.items() if key != "schema"}
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record; its key ``"schema"`` is always there, and is 1 if the file does not have it.

    Raises:
        InputError: The file is no JSON object, has a key twice or NaN in it, or is of a later schema.
        FileNotFoundError: There is no such file.
    """
    try:
        content = read_json(path.read_text(encoding="utf-8"), finite=True)
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no object")
    schema = content.get("schema", 1)
    if not isinstance(schema, int):
        raise InputError(f"{path} is damaged: its schema is {schema!r}")
    if schema > SCHEMA:
        raise LaterSchemaError(
            f"{path} is of schema {schema}, and this version reads up to {SCHEMA}: update the workbench"
        )
    return {**content, "schema": schema}
