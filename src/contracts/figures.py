"""Which figures a record of a result row may hold: each column's kind and range. A record may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from src.contracts.formats import Words
from src.contracts.results import BY_NAME, Column, Row
from src.device import schema
from src.device.schema import TEXT, Kind, between, count, optional

LARGEST = 1e39  # above every float32
TYPES: Mapping[str, str] = {each.name: str(each.type) for each in fields(Row)}
SHARE = between(0, 1)
SHARES = Kind(
    "an object of shares",
    lambda value: isinstance(value, dict) and all(optional(SHARE).holds(share) for share in value.values()),
)
REASONS = Kind(
    "an object of texts",
    lambda value: isinstance(value, dict) and all(TEXT.holds(reason) for reason in value.values()),
)


def _kind_of(column: Column) -> Kind:
    """A share, a whole number or any number; none is negative but a change of a share."""
    if column.unit == "share":
        return between(-1, 1) if column.relative else SHARE
    return count(0) if TYPES[column.name].startswith("int") else between(0, LARGEST)


FIGURES: Mapping[str, Kind] = {
    **{name: _kind_of(column) for name, column in BY_NAME.items() if not isinstance(column.format, Words)},
    "accuracy_per_class": SHARES,
    "seed": count(0),
    "unavailable": REASONS,
}


def check_figures(row: Mapping[str, Any], place: str = "") -> None:
    """Compare the figures of a row, as JSON holds it, with their kinds; any may be null, or missing in older records.

    Args:
        row: The row.
        place: Where it stands in its file.

    Raises:
        schema.InputError: A figure cannot be; the message names the column and the value.
    """
    for name, kind in FIGURES.items():
        schema.check(row.get(name), optional(kind), f"{place}.{name}" if place else name)
