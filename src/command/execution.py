"""One experiment from its resolved config to its results, on disk and tracked, as every command runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from src.command.composition import build, build_plan, build_tracker
from src.command.exits import BUDGET_MISSED, DONE, FAILED, TRACKING_FAILED
from src.command.syncing import close_earlier, send_earlier
from src.contracts import Console, DataDescription, Row, RunDescription, Tracker
from src.experiment.budget import Budget
from src.experiment.making import prepare
from src.experiment.plan import Plan
from src.experiment.results import Results
from src.experiment.runner import Experiment
from src.metrics.size import parts_of
from src.stages.store import StageStore
from src.tracking.guard import GuardedRun
from src.tracking.provenance import git_commit, source_digest, versions


@dataclass(frozen=True)
class Executed:
    """An experiment that was executed; its results are complete in its folder.

    Attributes:
        plan: What was done.
        results: Its results.
        compare: What a person opens or types to compare runs; None if nothing is tracked.
        model: The network after the last step, in eval mode, on the CPU.
    """

    plan: Plan
    results: Results
    compare: str | None
    model: nn.Module

    @property
    def code(self) -> int:
        """The exit code."""
        if self.results.tracking_error is not None:
            return TRACKING_FAILED
        if self.results.refused:
            return FAILED
        return BUDGET_MISSED if self.results.budget_missed else DONE


@dataclass(frozen=True)
class Origin:
    """Where an experiment comes from.

    Attributes:
        config: The resolved config, or what a program was given in its place.
        tracking: Name of the ``tracking`` config.
        command: The command that makes the run again.
        overrides: What Hydra was given.
        survey: The folder of the survey or search that the run is a member of.
    """

    config: Mapping[str, Any]
    tracking: str
    command: str
    overrides: Sequence[str] = ()
    survey: Path | None = None

    def fields(self, plan: Plan, tracking_uri: str | None) -> dict[str, Any]:
        """The fields of ``Results`` that say where a run comes from and where it is tracked."""
        return {
            "experiment": plan.name,
            "seed": plan.seed,
            "git_commit": git_commit(),
            "source": source_digest(),
            "command": self.command,
            "overrides": list(self.overrides),
            "tracking": self.tracking if tracking_uri is not None else "off",
            "tracking_uri": tracking_uri,
        }


def execute(
    resolved: dict[str, Any],
    choices: Mapping[str, str],
    folder: Path,
    *,
    console: Console,
    command: str,
    overrides: Sequence[str],
    survey: Path | None = None,
    refresh_before: float | None = None,
) -> Executed:
    """Build the plan, run it, write ``results.json`` and ``metrics.json``, track it.

    Args:
        resolved: The composed config as plain dicts and lists.
        choices: Hydra's choices: which file each group came from.
        folder: Folder of the run; it exists.
        console: Tells a person.
        command: The command that makes the run again.
        overrides: What Hydra was given.
        survey: The folder of the survey or search that the run is a member of.
        refresh_before: Stages older than this (seconds since 1970) are made anew; None refreshes none.

    Raises:
        InputError: Something that the user gave does not fit.
        TrackingError: Nothing answers at the tracking address before work begins.
    """
    origin = Origin(resolved, choices.get("tracking", "off"), command, tuple(overrides), survey)
    store = StageStore(Path(resolved["artifacts"]), refresh_before, console.line)
    plan, budget = build_plan(resolved, dict(choices)), build(resolved, "budget", Budget)
    tracker = build_tracker(resolved["tracking"])
    return carry_out(plan, budget, tracker, origin, folder, store=store, console=console)


def carry_out(
    plan: Plan,
    budget: Budget,
    tracker: Tracker,
    origin: Origin,
    folder: Path,
    *,
    store: StageStore,
    console: Console,
    artifacts: Path | None = None,
) -> Executed:
    """Run a plan, write ``results.json`` and ``metrics.json``, track it: what commands and the Python interface share.

    Args:
        plan: What to do.
        budget: The limits that its files must keep.
        tracker: The tracking store.
        origin: Where the plan comes from.
        folder: Folder of the run; it exists.
        store: Where stages live.
        console: Tells a person.
        artifacts: Folder beside which unsent results are listed; None takes that of ``store``.

    Raises:
        InputError: Something that the user gave does not fit.
        TrackingError: Nothing answers at the tracking address before work begins.
    """
    splits = prepare(plan)
    names = (plan.name, plan.variant, plan.model_name, plan.seed, DataDescription.of(splits))
    described = RunDescription(*names, origin.config, origin.command, folder, origin.survey, git_commit(), versions())
    tracked = _start(described, tracker, artifacts or store.root, origin.tracking, console)
    status = "FAILED"
    experiment = Experiment(plan, splits, store=store, tracked=tracked, console=console, folder=folder)
    try:
        rows, refused = experiment.run()
        results = Results(
            **origin.fields(plan, tracker.uri),
            identity=rows[-1].identity,
            rows=rows,
            not_exportable=[each for each in refused if not each.failed],
            refused=[each for each in refused if each.failed],
            budget_missed=budget.misses(rows, refused),
            tracking_run=tracked.run_id,
            files=_files(plan, rows, folder),
        )
        _log(tracked, results, folder)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracked.finish(status)
    if tracked.failure is not None:
        results = replace(results, tracking_error=tracked.failure)
        results.write(folder)
    return Executed(plan, results, tracker.page(tracked.run_id), experiment.made[-1].model)


def _start(described: RunDescription, tracker: Tracker, artifacts: Path, tracking: str, console: Console) -> GuardedRun:
    """Open the tracked run; send what earlier commands left, first of all in its own folder."""
    left = close_earlier(described.folder, artifacts)
    tracked = GuardedRun.start(tracker, described, artifacts, tracking)
    for line in [*left, *tracked.notes, *send_earlier(artifacts, tracker.uri, described.survey or described.folder)]:
        console.line(line)
    return tracked


def _log(tracked: GuardedRun, results: Results, folder: Path) -> None:
    """Write ``results.json`` and log it; the journal holds the rows before the store does."""
    tracked.measured(results.rows, results.refused)
    results.write(folder)
    tracked.rows(results.rows, folder)
    tracked.refused(results.refused)


def _files(plan: Plan, rows: Sequence[Row], folder: Path) -> list[str]:
    """Names of all parts of the exported files in a run's folder."""
    files = [(plan.targets[row.target].value, folder / row.artifact) for row in rows]
    return [part.name for target, file in files for part in parts_of(target, file)]
