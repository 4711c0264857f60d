"""The row that a survey is known by, chosen by validation data."""

from __future__ import annotations

from collections.abc import Sequence

from src.contracts import Row
from src.display.tables import baseline_of

ALLOWED_DROP = 0.01  # of accuracy on validation data


def best(rows: Sequence[Row]) -> Row | None:
    """The smallest file that loses at most one point of validation accuracy against its baseline.

    If every row loses more, the one that loses least; if there is only a baseline, that; None of no rows.
    """
    pairs = [(row, baseline_of(row, rows)) for row in rows if row.variant != "baseline"]
    drops = [(base.accuracy_validation - row.accuracy_validation, row) for row, base in pairs if base is not None]
    within = [row for drop, row in drops if drop <= ALLOWED_DROP + 1e-9]
    if within:
        return min(within, key=lambda row: (row.size_bytes, row.size_gzip_bytes, -row.accuracy_validation))
    if drops:
        return min(drops, key=lambda pair: pair[0])[1]
    return rows[0] if rows else None


def said_of(row: Row) -> str:
    """Why a row was chosen, in a sentence."""
    if row.variant == "baseline":
        return "There is only a baseline."
    return "The smallest file that loses at most one point of validation accuracy; else the one that loses least."
