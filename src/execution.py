"""One experiment from its resolved config to its results, on disk and tracked, as every command runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src import results
from src.command import BUDGET_MISSED, DONE, TRACKING_FAILED
from src.composition import build, build_plan, build_tracker
from src.console import Report
from src.contracts import Row
from src.experiment import Experiment
from src.plan import Plan
from src.stages.store import StageStore
from src.tracking.guard import Guard
from src.tracking.provenance import git_commit


@dataclass(frozen=True)
class Executed:
    """What became of an experiment; its results are complete in its folder.

    Attributes:
        plan: What was done.
        rows: The baseline's first.
        refused: What no file was written for.
        misses: A line for each limit of the budget that does not hold.
        tracking_failure: Why the tracking store lacks some of it; None where it holds all.
    """

    plan: Plan
    rows: Sequence[Row]
    refused: Sequence[Mapping[str, str]]
    misses: Sequence[str]
    tracking_failure: str | None

    @property
    def code(self) -> int:
        """The exit code."""
        return TRACKING_FAILED if self.tracking_failure is not None else BUDGET_MISSED if self.misses else DONE


def execute(
    resolved: dict[str, Any],
    chosen: Mapping[str, str],
    folder: Path,
    *,
    report: Report,
    command: str,
    overrides: Sequence[str],
    parent: Path | None = None,
    refresh_before: float | None = None,
) -> Executed:
    """Build the plan, run it, write ``results.json`` and ``metrics.json``, track it.

    Args:
        resolved: The composed config as plain dicts and lists.
        chosen: Hydra's choices: which file each group came from.
        folder: Of the run; it exists.
        report: Tells a person.
        command: That makes the run again.
        overrides: What was asked of Hydra.
        parent: The folder of the survey or search that the run is a member of.
        refresh_before: Stages older than this (seconds since 1970) are made anew; None refreshes none.

    Raises:
        InputError: Something that the user gave does not fit.
        TrackingError: Nothing answers at the tracking address before work begins.
    """
    plan = build_plan(resolved, dict(chosen))
    budget = build(resolved, "budget", results.Budget)
    tracker = Guard(build_tracker(resolved, command, folder, parent))
    store = StageStore(Path(resolved["artifacts"]), refresh_before)
    status = "FAILED"
    try:
        experiment = Experiment(plan, store=store, tracker=tracker, report=report, folder=folder)
        rows = experiment.run()
        misses = budget.misses(rows, experiment.refused)
        header = {
            **header_of(plan, rows[-1].identity, resolved, command=command, overrides=overrides),
            "budget_missed": misses,
            "not_exportable": [asdict(refused) for refused in experiment.refused],
            "tracking_run": tracker.run_id,
        }
        results.write_results(folder, rows, header)
        tracker.rows(rows, folder)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    if tracker.failure is not None:
        results.write_results(folder, rows, {**header, "tracking_error": tracker.failure})
    return Executed(plan, rows, header["not_exportable"], misses, tracker.failure)


def header_of(
    plan: Plan, identity: str, resolved: Mapping[str, Any], *, command: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """What ``results.json`` says beside its rows; nothing missed, refused or untracked, as yet."""
    return {
        "identity": identity,
        "experiment": plan.name,
        "seed": plan.seed,
        "git_commit": git_commit(),
        "command": command,
        "overrides": list(overrides),
        "budget_missed": [],
        "not_exportable": [],
        "tracking_error": None,
        "tracking_uri": resolved["tracking"].get("uri"),
    }
