"""A search from its command line to its results: prepared, tried, measured on the test set, tracked and registered."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TextIO

import optuna
from omegaconf import OmegaConf

from src.command.composition import build, build_plan, build_tracker, composed
from src.command.execution import Origin, execute
from src.command.exits import BUDGET_MISSED, DONE, TRACKING_FAILED
from src.command.reporting import leave_report
from src.command.search_job import SearchJob
from src.command.syncing import close_earlier, kept_in
from src.contracts import InputError, Row, Tracker, TrackingError
from src.display.terminal import Console
from src.experiment.budget import Budget
from src.experiment.making import prepare, weights_of
from src.experiment.plan import Plan
from src.experiment.results import Results
from src.experiment.sensitivity import read_analysis
from src.files.writing import write_text
from src.stages.store import StageStore
from src.study.attributes import STUDY_ID
from src.study.bounds import check_budget
from src.study.claims import (
    Claims,
    SamplerMaker,
    open_study,
    queue_points,
    storage_errors_explained,
)
from src.study.judging import Judge, searched_values
from src.study.outcome import Outcome
from src.study.progress import Progress
from src.study.space import Point, Space
from src.study.summary import (
    nearest_miss,
    point_of,
    time_figures,
    trials_within_budget,
)
from src.study.trials import TrialRunner, shortened
from src.study.workers import LOG, run_workers
from src.tracking.comparing import decisive_figures
from src.tracking.guard import GuardedSearch
from src.tracking.provenance import git_commit, remarks

BASELINE = ("method=baseline",)


def search(job: SearchJob, terminal: TextIO) -> int:
    """Run trials, measure the best ones on the test set, print and track them; return the exit code.

    Raises:
        InputError: Something that the user gave does not fit, or the study's storage does not answer.
        TrackingError: Nothing answers at the tracking address before work begins.
    """
    with storage_errors_explained(job.settings["storage"]):
        started = _start(job, Console(terminal, ""))
        return started.report(*started.run())


def work(job: SearchJob, terminal: TextIO) -> None:
    """Run trials of a study as one of many workers, until no trial is left for this one."""
    with storage_errors_explained(job.settings["storage"]):
        _, runner = _prepare(job)
        baseline = _run_chain(job, BASELINE, "baseline", Console(terminal, ""), tracked=False)
        runner = _judged_against(baseline, runner)
        study = _open_study(job, runner)
        runner.run_trials(study, _claims(job, study, runner.space), lambda: None)


@dataclass(frozen=True)
class Search:
    """A search whose baseline is made and whose study is open.

    Attributes:
        job: What the command line asks for.
        plan: The baseline's plan.
        runner: Runs trials.
        study: The study that all workers share.
        baseline: Rows of the baseline's files.
        tracker: The tracking store.
        tracked: The search in that store.
        console: Tells a person.
    """

    job: SearchJob
    plan: Plan
    runner: TrialRunner
    study: optuna.Study
    baseline: Sequence[Row]
    tracker: Tracker
    tracked: GuardedSearch
    console: Console

    def run(self) -> tuple[Outcome, list[str]]:
        """Run every trial, measure the finalists, write the results, register the chosen model and close the search.

        Returns:
            What the search found, and what was done in the registry of models.
        """
        registered: list[str] = []
        figures: dict[str, float] = {}
        status = "FAILED"
        try:
            self._run_trials()
            outcome = self._measure_finalists()
            self._write(outcome)
            for line in leave_report(self.job.folder):
                self.console.line(line)
            figures = decisive_figures(outcome.chosen_row) if outcome.chosen_row is not None else {}
            if outcome.chosen is not None:
                registered = self.tracked.register(outcome.registration(git_commit()))
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self.tracked.finish(status, {**figures, **time_figures(self.study)})
        return outcome, registered

    def report(self, outcome: Outcome, registered: Sequence[str]) -> int:
        """Print what the search found, and what was done in the registry; return the exit code."""
        lines = [*outcome.lines(), *registered]
        if self.tracked.failure is not None:
            lines.append(f"{self.tracked.failure}. {kept_in(self.job.folder)}")
        for line in [*lines, *remarks()]:
            self.console.line(line)
        if self.tracked.failure is not None:
            return TRACKING_FAILED
        return DONE if outcome.chosen is not None else BUDGET_MISSED

    def _run_trials(self) -> None:
        """Let workers run the trials, then run what they left; return when every trial is finished."""
        job, runner = self.job, self.runner
        progress = Progress(
            self.study, runner.judge, job.settings["trials"], tracked=self.tracked, console=self.console
        )
        if job.resolved["workers"] > 1 and not progress.complete:
            succeeded = run_workers(
                sys.argv[1:],
                workers=job.resolved["workers"],
                launcher=job.choices.get("hydra/launcher", "basic"),
                threads=job.resolved["training"]["threads"],
                folder=job.folder,
                watch=progress.show_new,
            )
            if not succeeded:
                self.console.line(f"Workers failed (see {job.folder / LOG}); this process continues alone.")
        while True:
            runner.run_trials(self.study, _claims(job, self.study, runner.space), progress.show)
            if progress.complete:
                return
            time.sleep(1)  # other processes run the last trials; if one dies, its trial is resumed here

    def _measure_finalists(self) -> Outcome:
        """Export the best trials for every target and measure them on the test set; choose by validation data."""
        judge = self.runner.judge
        commands: dict[int, str] = {}
        finalists: dict[int, list[Row]] = {}
        within: dict[int, dict[str, float]] = {}
        notes = []
        for number in trials_within_budget(self.study, judge):
            if len(finalists) >= self.job.settings["finalists"] and within:
                break
            chain = self.runner.space.overrides(point_of(self.study, number), f"trial_{number}")
            commands[number] = self.job.run_command(chain)
            finalists[number] = self._run_finalist(chain, f"trial_{number}")
            values = searched_values(next(row for row in finalists[number] if row.target == self.runner.target))
            if judge.within_budget(values):
                within[number] = values
            else:
                notes.append(f"Trial {number}, measured once more, misses the budget: {judge.missed_limits(values)}.")
        chosen = min(within, key=lambda number: judge.sort_key(within[number]), default=None)
        return Outcome(
            study=self.study,
            judge=judge,
            target=self.runner.target,
            folder=self.job.folder,
            baseline=self.baseline,
            finalists=finalists,
            chosen=chosen,
            notes=notes,
            commands=commands,
        )

    def _run_finalist(self, chain: Sequence[str], name: str) -> list[Row]:
        """The rows of a finalist's files; those of the baseline if its chain has no step."""
        try:
            rows = _run_chain(self.job, chain, name, self.console, tracked=self.tracked.failure is None)
        except TrackingError as error:  # the store has failed since the search began: finish without it
            self.tracked.failed(error)
            rows = _run_chain(self.job, chain, name, self.console, tracked=False)
        return [row for row in rows if row.variant != "baseline"] or rows

    def _write(self, outcome: Outcome) -> None:
        """Write the whole config, the rows of the finalists, and every trial."""
        job = self.job
        write_text(job.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.resolved)))
        missed = [] if outcome.chosen is not None else [nearest_miss(self.study, self.runner.judge)]
        origin = Origin(job.resolved, job.choices.get("tracking", "off"), job.command, job.overrides)
        results = Results(
            **origin.fields(self.plan, self.tracker.uri),
            identity=outcome.identity,
            rows=outcome.rows,
            budget_missed=missed,
        )
        results.write(job.folder)
        outcome.write()


# Before the first trial -------------------------------------------------------------------------------


def _start(job: SearchJob, console: Console) -> Search:
    """Check the whole input, make the baseline, and open the study and the tracking store."""
    plan, runner = _prepare(job)
    points = _first_points(job, runner.space)
    tracker = build_tracker(job.resolved["tracking"])
    console.line(
        f"{plan.name}: {plan.model_name} on {runner.splits.name}, {job.settings['trials']} trials for "
        f"{' and '.join(job.settings['objectives'])} on {runner.target}"
    )
    console.line(check_budget(runner.space, lambda point: runner.plan_of(point, 0, 1.0), runner.splits, runner.judge))
    study = _open_study(job, runner)
    artifacts = Path(job.resolved["artifacts"])
    for line in close_earlier(job.folder.absolute(), artifacts):
        console.line(line)
    _forget_other_study(job, study, tracker)
    baseline = _run_chain(job, BASELINE, "baseline", console)
    queue_points(study, points)
    tracked = GuardedSearch.of(tracker, job.folder.absolute(), artifacts)
    return Search(job, plan, _judged_against(baseline, runner), study, baseline, tracker, tracked, console)


def _prepare(job: SearchJob) -> tuple[Plan, TrialRunner]:
    """The baseline's plan, and what runs trials; its judge does not know the baseline's accuracy yet.

    Raises:
        InputError: Something that the user gave does not fit.
    """
    resolved, settings = job.resolved, job.settings
    plan = replace(build_plan(resolved, job.choices), steps={}, variant="baseline")
    target = settings["target"] or next(iter(plan.targets))
    _sampler_maker(job)
    if target not in plan.targets:
        raise InputError(f"search.target must be one of {', '.join(plan.targets)}, and is {target}")
    try:
        judge = Judge(tuple(settings["objectives"]), build(resolved, "budget", Budget), float("nan"))
    except ValueError as error:
        raise InputError(f"search.{error}") from error
    if judge.timed and plan.targets[target].value.stand_in:
        raise InputError(
            f"A latency is an objective or has a limit, and another runtime stands in for target {target} here, whose "
            "times say nothing of it: choose another search.target"
        )
    splits = prepare(plan)
    steps = {name: build(resolved["space"], name, key=f"space.{name}") for name in resolved["space"]}
    try:
        space = Space(steps, weights_of(plan, splits))
    except ValueError as error:
        raise InputError(str(error)) from error
    runner = TrialRunner(
        space=space,
        judge=judge,
        stopping=build(settings, "stopping", key="search.stopping"),
        lengths=settings["lengths"],
        plan_of=partial(_trial_plan, job, space, target),
        splits=splits,
        store=StageStore(Path(resolved["artifacts"])),
        folder=job.folder.absolute(),
        target=target,
    )
    return plan, runner


def _first_points(job: SearchJob, space: Space) -> list[Point]:
    """The points that the first trials try.

    Raises:
        InputError: One of them has no place in the space, or the sensitivity analysis does not fit.
    """
    try:
        points = [space.completed(given) for given in job.settings["first"]]
    except ValueError as error:
        raise InputError(f"search.first: {error}") from error
    if job.settings["sensitivity"] is not None:
        try:
            record = read_analysis(job.settings["sensitivity"])
            points += [space.point_from_sensitivity(record, drop) for drop in job.settings["sensitivity_drops"]]
        except ValueError as error:
            raise InputError(f"search.sensitivity: {error}") from error
    return points


def _open_study(job: SearchJob, runner: TrialRunner) -> optuna.Study:
    return open_study(
        job.settings["storage"],
        job.settings["name"],
        runner.judge.directions,
        job.study_definition(runner.splits.checksum),
        job.locks,
    )


def _forget_other_study(job: SearchJob, study: optuna.Study, tracker: Tracker) -> None:
    """Give a new study in the folder of an earlier one a run of its own in the tracking store."""
    mark = job.folder / ".study"
    if mark.is_file() and mark.read_text(encoding="utf-8") != study.user_attrs[STUDY_ID]:
        tracker.forget(job.folder)
    write_text(mark, study.user_attrs[STUDY_ID])


def _judged_against(baseline: Sequence[Row], runner: TrialRunner) -> TrialRunner:
    """``runner`` with a judge that knows the baseline's accuracy."""
    accuracy = next(row.accuracy_validation for row in baseline if row.target == runner.target)
    return replace(runner, judge=replace(runner.judge, baseline=accuracy))


# Chains of the space ----------------------------------------------------------------------------------


def _trial_plan(job: SearchJob, space: Space, target: str, point: Point, number: int, length: float) -> Plan:
    """The plan of a point for one target, its steps fine-tuned for a share ``length``."""
    config, choices = _composed(*job.overrides, *space.overrides(point, f"trial_{number}"))
    plan = build_plan(shortened(config, length), choices)
    return replace(plan, targets={target: plan.targets[target]})


@lru_cache(maxsize=1)
def _composed(*overrides: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What Hydra composes of a trial's overrides; kept for the trial's next length of fine-tuning."""
    return composed(overrides, "search")


def _run_chain(
    job: SearchJob, chain: Sequence[str], folder_name: str, console: Console, *, tracked: bool = True
) -> list[Row]:
    """Run a chain of the space as ``python -m src.run`` would; return its rows.

    Args:
        job: What the command line asks for.
        chain: The overrides of the chain.
        folder_name: Name of the run's folder in the search's.
        console: Tells a person.
        tracked: Whether the run is tracked.
    """
    config, choices = _composed(*job.overrides, *chain)
    if not tracked:
        config = {**config, "tracking": {"_target_": "src.tracking.off.Off"}}
    folder = (job.folder / folder_name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    executed = execute(
        {**config, "budget": dict.fromkeys(config["budget"])},  # the search compares with the budget itself
        choices,
        folder,
        console=console,
        command=job.run_command(chain),
        overrides=[*job.model_overrides, *chain],
        survey=job.folder.absolute(),
    )
    return list(executed.results.rows)


# Samplers ---------------------------------------------------------------------------------------------


def _sampler_maker(job: SearchJob) -> SamplerMaker:
    """What makes the sampler of each trial.

    Raises:
        InputError: A setting of the sampler is wrong.
    """
    make: SamplerMaker = build(job.settings, "sampler", key="search.sampler")
    try:
        make(seed=job.resolved["seed"])
    except (TypeError, ValueError) as error:
        raise InputError(f"search.sampler: {error}") from error
    return make


def _claims(job: SearchJob, study: optuna.Study, space: Space) -> Claims:
    return Claims(
        study,
        _sampler_maker(job),
        space.choose,
        seed=job.resolved["seed"],
        trials=job.settings["trials"],
        attempts=job.settings["attempts"],
        locks=job.locks,
    )
