"""The report as Markdown, for a pull request, a wiki, or the description of a run in a tracking store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from src.contracts import BY_NAME
from src.reporting.best import best, said_of
from src.reporting.gathering import Gathered, Item, Section
from src.reporting.layers import Change, changes
from src.reporting.pairs import Interval
from src.reporting.predicting import Predictions
from src.reporting.table import cells, headings, summary
from src.reporting.views import COSTS, fronts, intervals

SPECIAL = re.compile(r"([\\`*\[\]<>|~#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def markdown(gathered: Gathered, predicted: Sequence[Predictions], *, layers: bool = True) -> str:
    """The report: tables, fronts, layers, commands.

    Args:
        gathered: What it is about.
        predicted: Predictions of each section.
        layers: Whether the layers of each row are listed.
    """
    return "\n".join(_lines(gathered, predicted, layers)) + "\n"


def _lines(gathered: Gathered, predicted: Sequence[Predictions], layers: bool) -> Iterator[str]:
    yield f"# {_plain(gathered.title)}"
    notes = dict.fromkeys([*gathered.notes, *(note for each in predicted for note in each.notes)])
    yield from ("", *(f"- {_plain(note)}" for note in notes)) if notes else ()
    for section, own in zip(gathered.sections, predicted, strict=True):
        known = intervals(section, own)
        yield from ("", f"## {_plain(section.data)}", "", _plain(summary(section)), "")
        yield from _best(section)
        yield from _table(headings(), [[cell.text for cell in cells(item, known)] for item in section.items])
        yield from _fronts(section)
        yield from _flips(known)
        for item in section.items if layers else ():
            found = changes(item) if item.row.variant != "baseline" else []
            if found:
                yield from ("", f"### Layers of {_plain(item.name)}", "")
                yield from _table(LAYER_HEADS, [_layer(change) for change in found])
        yield from ("", "### How to make each row again", "")
        for item in section.items:
            yield from _provenance(item)


def _best(section: Section) -> Iterator[str]:
    """The row that the section is known by."""
    chosen = best([item.row for item in section.items])
    item = next((item for item in section.items if item.row is chosen), None)
    if item is not None and item.row.variant != "baseline":
        row = item.row
        parts = [row.accuracy, row.size_bytes, row.compression_ratio, row.latency_ms_p50]
        names = ("accuracy", "size_bytes", "compression_ratio", "latency_ms_p50")
        said = [BY_NAME[name].text([part]) for name, part in zip(names, parts, strict=True) if part is not None]
        yield from (f"**{_plain(item.name)}**: {', '.join(said)}. {said_of(row)}", "")


LAYER_HEADS = ("weight", "sparsity", "bits", "distinct values", "channels removed", "bytes before", "bytes after")


def _layer(change: Change) -> list[str]:
    before, after = change.before, change.after
    return [
        change.name,
        "-" if after is None else f"{100 * after.sparsity:.1f} %",
        "-" if after is None else f"{after.bits:g}",
        "-" if after is None else f"{after.distinct:,}",
        "-" if change.removed_channels is None else str(change.removed_channels),
        *("-" if layer is None else BY_NAME["size_bytes"].text([layer.size_bytes]) for layer in (before, after)),
    ]


def _fronts(section: Section) -> Iterator[str]:
    """The rows on each front, the smallest first."""
    found = fronts(section.items)
    known = [cost for cost in COSTS if found[cost]]
    yield from ("", *(f"- {_front(section, cost, found[cost])}" for cost in known))


def _front(section: Section, cost: str, front: Sequence[int]) -> str:
    rows = [section.items[at] for at in front]
    named = ", ".join(f"{_plain(item.name)} ({BY_NAME[cost].text([getattr(item.row, cost)])})" for item in rows)
    return f"Front of accuracy and {_plain(BY_NAME[cost].heading)}: {named}"


def _flips(known: Mapping[str, Interval]) -> Iterator[str]:
    for name, each in known.items():
        yield f"- {_plain(name)}: {each.lost} of {each.images} test images lost, {each.won} won"


def _provenance(item: Item) -> Iterator[str]:
    row = item.row
    facts = f"stage `{row.identity}`, sha256 `{row.sha256[:16]}…`, commit `{(item.git_commit or 'unknown')[:12]}`"
    yield f"- {_plain(item.name)}: {facts}, {_plain(row.machine)}"
    yield from ("", *(f"      {line}" for line in item.command.splitlines()), "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(_plain(head) for head in heads)} |"
    yield f"|---{'|---:' * (len(heads) - 1)}|"
    yield from (f"| {' | '.join(_plain(cell) for cell in row)} |" for row in rows)


def _plain(text: str) -> str:
    """Text that Markdown and the HTML in it leave as it is, in one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
