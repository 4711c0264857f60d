"""Reading the file that ``python -m src.sensitivity`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.device.schema import read_json


def read_sensitivity(file: str) -> Mapping[str, Any]:
    """Read a ``sensitivity.json``.

    Returns:
        Its record: at least ``accuracy`` (of the unchanged network, in [0, 1]) and ``layers`` (measurements by weight
        name).

    Raises:
        ValueError: The file is missing, cannot be read or is something else.
    """
    try:
        record = read_json(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"file: {file} cannot be read as a sensitivity analysis: {error}") from error
    if not isinstance(record, dict) or not {"layers", "accuracy"} <= set(record):
        raise ValueError(f"file: {file} is no sensitivity analysis (python -m src.sensitivity makes one)")
    return record
