"""The rows as a table: the same columns, in the same words, on the page and in Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from src.contracts import BY_NAME
from src.contracts import COLUMNS as COLUMNS_OF_ROWS
from src.contracts.results import LEAST_AGREEMENT
from src.reporting.gathering import Gathered, Item, Section
from src.reporting.pairs import Interval

COLUMNS = (
    "precision",
    "bits_per_weight",
    "accuracy",
    "accuracy_change",
    "size_bytes",
    "compression_ratio",
    "size_gzip_bytes",
    "size_packed_bytes",
    "latency_ms_p50",
    "speedup",
    "agreement",
)
NESTED = ("accuracy_per_class", "unavailable")
WHOLE_CHANGE = "change (95 % interval)"


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        text: What it says.
        value: What the table is sorted by; None stands last.
        wrong: Whether a reader must not miss it.
    """

    text: str
    value: float | str | None
    wrong: bool = False


def headings() -> list[str]:
    """The headings, the name of the row first."""
    names = {"accuracy_change": WHOLE_CHANGE, "agreement": "agrees"}
    return ["row", *(names.get(name, BY_NAME[name].heading) for name in COLUMNS)]


def cells(item: Item, intervals: Mapping[str, Interval]) -> list[Cell]:
    """The cells of a row; of the change of accuracy with its interval, if that is known."""
    return [Cell(item.name, item.name), *(_cell(name, item, intervals.get(item.name)) for name in COLUMNS)]


def _cell(name: str, item: Item, interval: Interval | None) -> Cell:
    row, column = item.row, BY_NAME[name]
    value = getattr(row, name)
    if name == "agreement":
        return Cell(f"{100 * value:.1f} %", value, wrong=value < LEAST_AGREEMENT)
    if value is None or (column.relative and row.variant == "baseline"):
        return Cell("-", None)
    text = column.text([value])
    if name == "accuracy_change" and interval is not None:
        text += f" ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
    if name == "speedup" and row.speedup_low is not None and row.speedup_high is not None:
        text += f" ({row.speedup_low:.2f} to {row.speedup_high:.2f})"
    return Cell(text, value if isinstance(value, (int, float)) else str(value))


def as_csv(gathered: Gathered) -> str:
    """Every row with all its columns that hold one value, for a spreadsheet; what is not known is empty."""
    names = [column.name for column in COLUMNS_OF_ROWS if column.name not in NESTED]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", *names, "command"])
    for item in (item for section in gathered.sections for item in section.items):
        values = [getattr(item.row, name) for name in names]
        writer.writerow([item.name, *("" if value is None else value for value in values), item.command])
    return text.getvalue()


def summary(section: Section) -> str:
    """What a section is about, in one line."""
    items = section.items
    models = dict.fromkeys(item.row.model for item in items)
    targets = dict.fromkeys(item.row.target for item in items)
    seeds = dict.fromkeys(item.row.seed for item in items)
    parts = [
        f"{len(items)} row{'s' * (len(items) != 1)}",
        ", ".join(models),
        ", ".join(targets),
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
    ]
    return " · ".join(parts)
