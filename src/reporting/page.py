"""The report as one HTML file that needs no network: its data, its drawing code and its style are inside."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from src.reporting.gathering import Gathered, Item, Section
from src.reporting.pairs import Interval
from src.reporting.predicting import Predictions
from src.reporting.table import Cell, cells, headings, summary
from src.reporting.views import intervals, trials, view

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("d3.min.js", "plot.umd.min.js", "report.js")
# Nothing is loaded, and what stands in the page as text cannot become code that reaches the network.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
ON_FRONTS = (
    "The dashed line is the front: no other row has fewer of the bytes (or less of the time) and as much accuracy. "
    "Hover or touch a point for its name."
)
ON_INTERVALS = (
    "Each row and its baseline see the same test images: the interval (Agresti and Min 2005) follows from the images "
    "that only one of the two classifies correctly. One that holds zero is no proof of a change."
)
PARTS = (  # its place, title, classes and explanation
    ("fronts", "Accuracy against bytes and latency", "grid", ON_FRONTS),
    ("bars", "Size, accuracy, latency", "grid three", ""),
    ("intervals", "How sure each change of accuracy is", "", ON_INTERVALS),
    ("changes", "Which classes and images a row loses", "", ""),
    ("layers", "Layers", "", ""),
    ("curves", "Training", "", ""),
    ("sensitivity", "What each layer bears", "grid", ""),
)


def page(gathered: Gathered, predicted: Sequence[Predictions], made_by: str) -> str:
    """The page.

    Args:
        gathered: What it is about.
        predicted: Predictions of each section.
        made_by: The command that made the report.
    """
    views = [view(*each) for each in zip(gathered.sections, predicted, strict=True)]
    searches = [trials(record) for record in gathered.searches.values()]
    notes = [*gathered.notes, *(note for each in predicted for note in each.notes)]
    body = "\n".join(_body(gathered, predicted, notes, made_by))
    scripts = "\n".join(f"<script>{(ASSETS / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS)
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(gathered.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="views">{as_text(views)}</script>\n'
        f'<script type="application/json" id="searches">{as_text(searches)}</script>\n{scripts}\n</body>\n</html>\n'
    )


def as_text(value: Any) -> str:
    """JSON that stands inside a script element: no ``<`` in it can end that element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _body(gathered: Gathered, predicted: Sequence[Predictions], notes: Sequence[str], made_by: str) -> Iterator[str]:
    at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    yield f"<header><h1>{escape(gathered.title)}</h1>"
    yield f'<p class="faint">Made {at} by <code>{escape(made_by)}</code></p>'
    if notes:
        yield '<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes)) + "</ul>"
    yield "</header><main>"
    for number, (section, own) in enumerate(zip(gathered.sections, predicted, strict=True)):
        yield from _section(number, section, intervals(section, own))
    for number, (name, record) in enumerate(gathered.searches.items()):
        count = len(trials(record)["points"])
        yield f'<section data-search="{number}"><h2>Trials of {escape(name)}</h2>'
        yield f'<p class="faint">{count} completed trials, measured on validation data, never on the test images</p>'
        yield '<div class="part"><div class="grid" data-place="trials"></div></div></section>'
    if not gathered.sections:
        yield "<p>There is no result row yet.</p>"
    yield "</main>"


def _section(number: int, section: Section, known: Mapping[str, Interval]) -> Iterator[str]:
    yield f'<section data-section="{number}"><h2>{escape(section.data)}</h2>'
    yield f'<p class="faint">{escape(summary(section))}</p>'
    yield _table(section, known)
    yield '<div class="part"><div data-place="legend"></div></div>'
    for place, title, kind, text in PARTS:
        said = f'<p class="faint">{escape(text)}</p>' if text else ""
        yield f'<div class="part"><h3>{title}</h3>{said}<div class="{kind}" data-place="{place}"></div></div>'
    yield "<h3>How to make each row again</h3>"
    yield from (_provenance(item) for item in section.items)
    yield "</section>"


def _table(section: Section, known: Mapping[str, Interval]) -> str:
    heads = "".join(f'<th scope="col"><button type="button">{escape(head)}</button></th>' for head in headings())
    rows = []
    for at, item in enumerate(section.items):
        first, *others = cells(item, known)
        name = f'<span class="swatch" data-variant="{at}"></span>{escape(first.text)}'
        rows.append(f"<tr>{_td(first, name)}{''.join(_td(each, escape(each.text)) for each in others)}</tr>")
    body = "".join(rows)
    table = f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _td(cell: Cell, content: str) -> str:
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
    return f"<td{value}{' class=wrong' if cell.wrong else ''}>{content}</td>"


def _provenance(item: Item) -> str:
    row = item.row
    facts = {
        "file": f"{row.artifact} (sha256 {row.sha256})",
        "stage": row.identity,
        "commit": item.git_commit or "unknown",
        "runtime": str(row.runtime),
        "machine": row.machine,
        "measured": row.measured_at + (f", timed {row.timed_at}" if row.timed_at else ""),
        "weights kept": row.weights_kept,
        "agrees with torch": f"{row.agreement:.2%} of classes; logits differ by {row.logit_difference_max:.3g} at most",
        "folder": str(item.folder),
        **{f"no {column}": reason for column, reason in row.unavailable.items()},
    }
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    return (
        f"<details><summary>{escape(item.name)}</summary><pre>{escape(item.command)}</pre><dl>{listed}</dl></details>"
    )
