"""Result rows as a table, and what a reader of it could misread."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TextIO

from src.contracts import BY_NAME, COLUMNS, LEAST_AGREEMENT, LEAST_INTEGER, Column, Entry, Refused, Row
from src.contracts.results import WRONG

REFUSED = "REFUSED"  # stands in the table if the runtime fails on the file
FAR_APART = 0.05  # accuracy above balanced accuracy
LEAST_LABEL = 24  # characters of a label before it is broken
WIDTH = 100  # characters of a line that people read without scrolling
# Columns that a table leaves out if it would be wider, the first of them first; a record has them all.
LEFT_OUT = (
    "integer_share",
    "precision",
    "bits_per_weight",
    "size_gzip_bytes",
    "compression_ratio",
    "size_packed_bytes",
)
WORDS = ("variant", "target", "precision")  # columns whose cells begin at the left
Group = tuple[str, str]  # label and target


def table(entries: Sequence[Entry], refused: Sequence[Refused] = (), width: int | None = WIDTH) -> list[str]:
    """The result table: a line for each variant and target; over several seeds the mean and standard deviation.

    Args:
        entries: The rows.
        refused: Variants without a row; each has a line without figures.
        width: Characters that a line should have at most: first the column that says of every file that it does what
            its network does is left out, then the interval of the speedup, then the columns ``LEFT_OUT``, until it
            fits; a label that is still too long goes on in the next line. The share of integers is shown only if it is
            under 99 % for an INT8 file. None leaves out and breaks nothing.
    """
    shown = [column for column in COLUMNS if column.heading]
    if width is not None and not any(_is_partly_float(entry.row) for entry in entries):
        shown = [column for column in shown if column.name != "integer_share"]
    lines = _lines(entries, refused, shown, intervals=True)
    if width is None or _is_narrow(lines, width):
        return lines
    doubted = [*refused, *(entry for entry in entries if entry.row.agreement < LEAST_AGREEMENT)]
    if not doubted:
        shown = [column for column in shown if column.name != "agreement"]
    for left_out in (None, *LEFT_OUT):
        shown = [column for column in shown if column.name != left_out]
        lines = _lines(entries, refused, shown, intervals=False)
        if _is_narrow(lines, width):
            return lines
    return _lines(entries, refused, shown, intervals=False, width=width)


def _is_narrow(lines: Sequence[str], width: int) -> bool:
    return max(map(len, lines)) <= width


def _lines(
    entries: Sequence[Entry],
    refused: Sequence[Refused],
    shown: Sequence[Column],
    *,
    intervals: bool,
    width: int | None = None,
) -> list[str]:
    """The table with the columns ``shown``, with or without confidence intervals, its labels broken to a width."""
    groups: dict[Group, list[Row]] = {}
    several_models = len({(entry.row.data, entry.row.model) for entry in entries}) > 1
    for entry in entries:
        groups.setdefault((_label(entry, several_models), entry.row.target), []).append(entry.row)
    lines = [[column.heading for column in shown]]
    for (label, _), rows in groups.items():
        cells = [_cell(column, rows, intervals) for column in shown[1:]]
        lines.append([label + (f" x{len(rows)}" if len(rows) > 1 else ""), *cells])
    for variant, target in dict.fromkeys((each.variant, each.target) for each in refused):
        named = {"variant": variant, "target": target, "agreement": REFUSED}
        lines.append([named.get(column.name, "-") for column in shown])
    if width is not None:
        lines = _broken(lines, width)
    return aligned(lines, left=sum(column.name in WORDS for column in shown))


def _broken(lines: Sequence[list[str]], width: int) -> list[list[str]]:
    """Lines whose first cell goes on below, under no other cell, where it would make them wider than ``width``."""
    others = sum(2 + max(map(len, column)) for column in list(zip(*lines, strict=True))[1:])
    room = max(LEAST_LABEL, width - others)
    broken: list[list[str]] = []
    for label, *cells in lines:
        first, *rest = textwrap.wrap(label, room, subsequent_indent="  ", break_on_hyphens=False)
        broken += [[first, *cells], *([more, *[""] * len(cells)] for more in rest)]
    return broken


def aligned(lines: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Cells in columns, two blanks between them.

    Args:
        lines: The cells of each line; all lines have as many.
        left: Number of columns, from the first, whose cells begin at the left; the others end at the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def highlighted(lines: Sequence[str], stream: TextIO) -> list[str]:
    """The table with its heading bold and each file that is wrong in red, where ``stream`` is a terminal with colours.

    Nothing is coloured if ``NO_COLOR`` is set, as https://no-color.org asks, or if the terminal is ``dumb``.
    """
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return list(lines)
    marked = [f"\033[31m{line}\033[0m" if line.endswith((REFUSED, WRONG)) else line for line in lines[1:]]
    return [f"\033[1m{line}\033[0m" for line in lines[:1]] + marked


def refusals(refused: Sequence[Refused]) -> list[str]:
    """A line for each variant that a target cannot hold, or whose file its runtime refused."""
    kinds = {True: "Refused", False: "Not exportable"}
    return list(dict.fromkeys(f"{kinds[each.failed]}: {each.variant}: {each.reason}" for each in refused))


def remarks(rows: Sequence[Row]) -> list[str]:
    """What a reader of the table could otherwise misread."""
    lines = []
    for row in rows:
        base = baseline_of(row, rows)
        if row.agreement < LEAST_AGREEMENT:
            where = f"; {row.departs_at} departs first" if row.departs_at else ""
            lines.append(
                f"{row.artifact} predicts what the torch model does for {row.agreement:.1%} of images{where}. "
                "Trust the file's accuracy, and mind that the export changed the network."
            )
        if row.balanced_accuracy is not None and row.accuracy - row.balanced_accuracy > FAR_APART:
            lines.append(
                f"Balanced accuracy, in which rare classes count as much as frequent ones, is "
                f"{100 * row.balanced_accuracy:.2f} % for {row.artifact}, and not {100 * row.accuracy:.2f} %."
            )
        partly = _is_partly_float(row)
        if partly:
            lines.append(
                f"{row.artifact} computes {row.integer_share:.1%} of its multiply-accumulates in integers; "
                f"in floats: {row.float_operations}."
            )
        if base is None or row.variant == "baseline":
            continue
        sparse = (row.nonzero_parameters or 0) < 0.9 * (row.parameters or 0)
        if sparse and not row.precision.integer and row.size_bytes > 0.95 * base.size_bytes:
            lines.append(
                "Pruned float weights make a file no smaller unless packed (target=packed); channels or INT8 do."
            )
        if row.precision.integer and (row.latency_ms_p50 or 0) > 1.1 * (base.latency_ms_p50 or 0):
            lines.append(
                f"INT8 is slower than float here ({row.variant} on {row.target}): "
                + ("much of it is computed in floats." if partly else "this network or processor gains nothing.")
            )
    missing = {f"{column} on {row.target}: {why}" for row in rows for column, why in row.unavailable.items()}
    return [*dict.fromkeys(lines), *(f"Not measured: {line}." for line in sorted(missing))]


def _is_partly_float(row: Row) -> bool:
    """Whether an INT8 file computes more than a little in floats."""
    return row.precision.integer and row.integer_share is not None and row.integer_share < LEAST_INTEGER


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The baseline's row that ``row`` is compared with; None if there is none."""
    key = _comparable(row)
    return next((other for other in rows if other.variant == "baseline" and _comparable(other) == key), None)


def columns_as_markdown(columns: Sequence[Column] = COLUMNS) -> list[str]:
    """The table of docs/results.md: every column, its unit and its meaning."""
    head = ["| column | unit | better | meaning |", "|---|---|---|---|"]
    return head + [f"| {c.name} | {c.unit} | {c.direction or ''} | {c.meaning} |" for c in columns]


def _label(entry: Entry, several_models: bool) -> str:
    label = entry.row.variant + (f" {entry.row.model}/{entry.row.data}" if several_models else "")
    settings = [setting for setting in entry.settings if not setting.startswith(("model=", "data="))]
    return label + (f" ({', '.join(settings)})" if settings else "")


def _cell(column: Column, rows: Sequence[Row], intervals: bool) -> str:
    """The rows' values of a column; of a single row with its confidence interval if ``intervals``."""
    if column.relative and rows[0].variant == "baseline":
        return "-"
    text = column.text([getattr(row, column.name) for row in rows])
    if intervals and column.interval is not None and text != "-" and len(rows) == 1:
        low, high = (BY_NAME[end].text([getattr(rows[0], end)]) for end in column.interval)
        text += f" ({low} to {high})"
    return text


def _comparable(row: Row) -> Mapping[str, object]:
    return {"target": row.target, "data": row.data, "model": row.model, "seed": row.seed}
