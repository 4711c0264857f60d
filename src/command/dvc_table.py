"""The last stage of DVC: all results as a table, as metrics, and as what ``dvc plots`` draws."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.command.dvc import BASELINE, KEPT_RECORD, PIPELINE, RUNS, SEARCH, Choices, write_json
from src.contracts import COLUMNS, Entry, InputError, Row
from src.display.tables import remarks, table
from src.experiment import results
from src.experiment.results import Results
from src.files.records import read_record
from src.files.writing import write_text

COMPARED = tuple(column.name for column in COLUMNS if column.compared)
CURVES = ("train_loss", "train_accuracy", "validation_accuracy", "learning_rate")


@dataclass(frozen=True)
class VariantResults:
    """The results of the baseline, of a method, or of the search's chosen model.

    Attributes:
        variant: Its name in the table.
        results: The results of its run.
        rows: Its own rows; those of the baseline in its run are left out.
        curves: A line for each epoch of its own stages.
    """

    variant: str
    results: Results
    rows: Sequence[Row]
    curves: Sequence[Mapping[str, Any]]


def tabulate() -> list[str]:
    """Gather the runs into ``table.md``, ``metrics.json``, ``runs.json`` and what ``dvc plots`` draws.

    Returns:
        The lines of the table.

    Raises:
        InputError: A run has no results yet.
    """
    variants = [_read(variant) for variant in Choices.read().variants]
    rows = [row for each in variants for row in each.rows]
    lines = table([Entry(row) for row in rows])
    heading = f"# {rows[0].model} on {rows[0].data}, seed {rows[0].seed}"
    text = "\n".join([heading, "", "```", *lines, "```", "", *remarks(rows)])
    write_text(PIPELINE / "table.md", text.rstrip() + "\n")
    write_json(PIPELINE / "runs.json", {each.variant: _origin(each.results) for each in variants})
    write_json(PIPELINE / "metrics.json", {each.variant: _metrics(each.rows) for each in variants})
    points = [
        {"method": each.variant, "target": row.target, **_compared(row)} for each in variants for row in each.rows
    ]
    _write_csv(PIPELINE / "accuracy_size.csv", ("method", "target", *COMPARED), points)
    curves = [line for each in variants for line in each.curves]
    _write_csv(PIPELINE / "training.csv", ("method", "stage", "epoch", *CURVES), curves)
    return lines


def _read(variant: str) -> VariantResults:
    folder = SEARCH / _chosen_trial() if variant == SEARCH.name else RUNS / variant
    if not (folder / results.RESULTS).exists():
        raise InputError(f"{folder} holds no results: dvc repro makes them")
    found = Results.read(folder)
    rows = [row for row in found.rows if (row.variant == BASELINE) == (variant == BASELINE)]
    return VariantResults(variant, found, rows, _curves(variant, folder))


def _chosen_trial() -> str:
    """The folder of the search's chosen model below the search's own."""
    if not (SEARCH / results.SEARCH).exists():
        raise InputError(f"{SEARCH} holds no search: dvc repro makes it")
    return f"trial_{read_record(SEARCH / results.SEARCH)['chosen']}"


def _origin(found: Results) -> dict[str, str | None]:
    """What leads from a line of the table to its stage and its tracked run."""
    return {
        "identity": found.identity,
        "tracking_run": found.tracking_run,
        "git_commit": found.git_commit,
        "command": found.command,
    }


def _compared(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in COMPARED}


def _metrics(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The compared columns that are known, by target."""
    return {row.target: {name: value for name, value in _compared(row).items() if value is not None} for row in rows}


def _curves(variant: str, folder: Path) -> list[dict[str, Any]]:
    """A line for each epoch of a run's stages, in the order of training; a method's without its baseline's."""
    stages = {
        path.name.removesuffix(KEPT_RECORD): read_record(path)["epochs"] for path in folder.glob(f"*{KEPT_RECORD}")
    }
    if variant != BASELINE:
        stages.pop(BASELINE, None)
    in_order = sorted(stages, key=lambda stage: min((epoch["finished_at"] for epoch in stages[stage]), default=0.0))
    epochs = [(stage, epoch) for stage in in_order for epoch in stages[stage]]
    return [
        {"method": variant, "stage": stage, "epoch": number, **{key: epoch[key] for key in CURVES}}
        for number, (stage, epoch) in enumerate(epochs, start=1)
    ]


def _write_csv(path: Path, columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> None:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, out.getvalue())
