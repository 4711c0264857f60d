"""A run, or a survey of many: its members counted beforehand, run one by one, concluded in one table."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hydra.experimental.callback import Callback

from src.command.exits import BUDGET_MISSED, DONE, FAILED, TRACKING_FAILED, WRONG_INPUT, explain
from src.command.folders import owned_folders
from src.command.jobs import Job, run_jobs
from src.contracts import InputError
from src.files.owner import owning
from src.training.recipe import WORKERS, usable_cores

if TYPE_CHECKING:
    from src.contracts import Tracker
    from src.experiment.results import Results
    from src.experiment.results import Survey as Outcome

MEMBERS = "DNNC_SURVEY_MEMBERS"  # handed on by the environment, so that members in other processes have it too
PLAN = "DNNC_PLAN"  # the same: members say what they would do, and do nothing


class Survey(Callback):
    """Hydra's callback of a multirun: counts the members before they start, and remembers where they are tracked."""

    folder: Path | None = None
    rows_to: TextIO | None = None  # gets the rows as JSON lines
    tracking: dict[str, Any] | None = None
    artifacts: Path | None = None

    @classmethod
    def reset(cls) -> None:
        """Forget an earlier survey of this process."""
        cls.folder, cls.tracking, cls.artifacts = None, None, None
        os.environ.pop(MEMBERS, None)
        os.environ.pop(WORKERS, None)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf

        from src.command.syncing import close_earlier
        from src.experiment.results import begin_survey
        from src.tracking.surveys import forget_parent

        Survey.folder = Path(config.hydra.sweep.dir).absolute()
        Survey.tracking = OmegaConf.to_container(config.tracking, resolve=True)  # type: ignore[assignment]
        Survey.artifacts = Path(config.artifacts)
        if PLAN not in os.environ:
            for line in close_earlier(Survey.folder, Survey.artifacts):
                print(line)
            begin_survey(Survey.folder)
            forget_parent(Survey.folder)  # left by an earlier survey in the same folder
        swept = dict(config.hydra.sweeper.get("params") or {})
        texts = [f"{key}={value}" for key, value in swept.items()]
        overrides = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(texts)}
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        overrides |= {o.key_or_group: o for o in given}
        counts = [len(list(o.sweep_string_iterator())) for o in overrides.values() if o.is_sweep_override()]
        os.environ[MEMBERS] = str(math.prod(counts))
        os.environ[WORKERS] = str(_members_at_once(config.hydra.launcher, usable_cores()))


def _members_at_once(launcher: Any, cores: int) -> int:
    """How many members a launcher runs at once on this machine: joblib's jobs, as many as Ray has cores for, …"""
    jobs = launcher.get("n_jobs")
    if jobs is not None:
        return cores if jobs < 1 else int(jobs)
    if launcher.get("ray") is not None:
        each = launcher.ray.remote.get("num_cpus") or 1
        return max(1, cores // int(each))
    if "submitit" in launcher.get("_target_", ""):  # each node runs as many jobs as it has cores for
        return max(1, cores // int(launcher.get("cpus_per_task") or 1))
    return 1


def run_experiments(rows_to: TextIO | None = None) -> int:
    """Run the experiment, or the survey, that the command line describes; return the exit code.

    Args:
        rows_to: Gets each result row as a JSON object on a line of its own; None for nobody.
    """
    Survey.reset()
    Survey.rows_to = rows_to
    with owned_folders():
        return _run_jobs()


def plan_experiments() -> int:
    """Say what ``run_experiments`` would do, and do nothing; return the exit code."""
    Survey.reset()
    os.environ[PLAN] = "1"
    own = [word for word in sys.argv[1:] if not word.startswith(("hydra.run.dir=", "hydra.sweep.dir="))]
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [*own, f"hydra.run.dir='{folder}/run'", f"hydra.sweep.dir='{folder}/survey'"]
        try:
            with owned_folders():
                codes, errors = run_jobs("config", _planned)
        finally:
            del os.environ[PLAN]
    if errors:
        raise errors[0]
    return max(codes, default=DONE)


def _planned(job: Job) -> int:
    """Print what a run would do."""
    from src.display.terminal import only_ours

    resolved = job.resolved
    with only_ours(job.folder / "run.log", verbose=resolved["verbose"]) as terminal:
        from src.command.composition import build_plan
        from src.experiment.making import prepare
        from src.experiment.outlook import outlook
        from src.stages.store import StageStore

        plan = build_plan(resolved, job.choices)
        store = StageStore(Path(resolved["artifacts"]), time.time() if resolved["refresh"] else None)
        print(f"{_prefix(job)}{plan.name}: {plan.variant} of {plan.model_name}, seed {plan.seed}", file=terminal)
        for line in outlook(plan, prepare(plan), store).lines():
            print(line, file=terminal)
    return DONE


def _run_jobs() -> int:
    try:
        codes, errors = run_jobs("config", _member)
    except KeyboardInterrupt:
        if Survey.folder is not None and Survey.folder.is_dir():
            _finish_tracking(Survey.folder, "KILLED")
        raise
    if Survey.folder is not None and Survey.folder.is_dir():
        return _conclude(Survey.folder)
    if errors:
        raise errors[0]
    return max(codes, default=DONE)


def _member(job: Job) -> int:
    """Run one experiment in its folder, which a survey's member owns itself."""
    if job.survey is None:
        return _experiment(job)
    with ExitStack() as held:
        try:
            held.enter_context(owning(job.folder))
        except InputError as error:
            print(f"{_prefix(job)}failed: {error}", file=sys.stderr)
            raise
        return _survey_member(job, job.survey)


def _survey_member(job: Job, survey: Path) -> int:
    """Run a survey's member, and write a failure down in its folder before it is raised."""
    from src.experiment.results import write_failure, write_survey

    try:
        code = _experiment(job)
    except Exception as error:
        line, code = explain(error)
        kind = "input" if code == WRONG_INPUT else "error"
        write_failure(job.folder, overrides=job.overrides, reason=line, kind=kind)
        write_survey(survey, [job.folder.name])
        print(f"{_prefix(job)}failed: {line}", file=sys.stderr)
        raise
    write_survey(survey, [job.folder.name])
    return code


def _experiment(job: Job) -> int:
    """Run it and print its table; return the exit code."""
    from src.display.terminal import only_ours

    resolved = job.resolved
    with only_ours(job.folder / "run.log", verbose=resolved["verbose"]) as terminal:
        from src.command.execution import execute
        from src.command.syncing import kept_in
        from src.display.tables import refusals
        from src.display.terminal import Console
        from src.experiment.results import RESULTS, survey_started

        begun = (survey_started(job.survey) if job.survey is not None else None) or time.time()
        earlier = (job.folder / RESULTS).exists()
        if not earlier:
            job.write_config()
        console = Console(terminal, _prefix(job))
        done = execute(
            resolved,
            job.choices,
            job.folder,
            console=console,
            command=job.command,
            overrides=job.overrides,
            survey=job.survey,
            refresh_before=begun if resolved["refresh"] else None,
        )
        if earlier:
            job.write_config()  # not before: it belongs to the results
        results = done.results
        if results.tracking_error is not None:
            console.line(f"{results.tracking_error}. {kept_in(job.folder)}")
        if job.survey is None:
            notes = [*refusals([*results.not_exportable, *results.refused]), *results.budget_missed]
            _show(terminal, results, notes, _written(job.folder, "", done.compare))
    return done.code


def _conclude(folder: Path) -> int:
    """Print a survey's table, its failures and what to do next; return its exit code."""
    from src.display.tables import refusals
    from src.experiment.results import write_survey

    survey = write_survey(folder)
    missing = int(os.environ.get(MEMBERS, 0)) - len(survey.members) - len(survey.failed)
    reasons = list(dict.fromkeys(failure.reason for failure in survey.failed))
    lost = [f"{missing} of {os.environ[MEMBERS]} members left no results."] if missing > 0 else []
    unreported = _leave_report(folder) if survey.entries else []
    tracking_failure = _finish_tracking(folder, "FAILED" if survey.failed or lost else "FINISHED")
    if not survey.entries:
        for reason in [*reasons, *lost]:
            print(reason, file=sys.stderr)
        only_input = not lost and reasons and all(failure.kind == "input" for failure in survey.failed)
        return WRONG_INPUT if only_input else FAILED
    notes = refusals([*survey.not_exportable, *survey.refused])
    notes += [f"Budget missed by {member}: {'; '.join(misses)}" for member, misses in survey.budget_missed.items()]
    notes += [f"Failed: {failure.member}: {failure.reason}" for failure in survey.failed]
    notes += [*lost, *unreported]
    notes += [tracking_failure] if tracking_failure else []
    written = _written(folder, f" (survey.json, {len(survey.members)} runs, report.html)", _page(folder))
    _show(sys.stdout, survey, notes, written)
    if survey.failed or survey.refused or lost:
        return FAILED
    if survey.tracking_failed or tracking_failure:
        return TRACKING_FAILED
    return BUDGET_MISSED if survey.budget_missed else DONE


def _finish_tracking(folder: Path, status: str) -> str | None:
    """Close the survey's run in the tracking store; return what went wrong there."""
    from src.command.syncing import kept_in
    from src.contracts import TrackingError
    from src.display.terminal import only_ours
    from src.experiment.results import write_survey
    from src.reporting.best import best
    from src.tracking.comparing import decisive_figures
    from src.tracking.guard import finish_survey

    chosen = best(write_survey(folder).rows)
    figures = decisive_figures(chosen) if chosen is not None else {}
    try:
        with only_ours(folder / "survey.log", verbose=False):
            finish_survey(_tracker(), folder, status, Survey.artifacts or Path("artifacts"), figures)
    except TrackingError as error:
        return f"{error}. {kept_in(folder)}"
    return None


def _leave_report(folder: Path) -> list[str]:
    """Write the survey's report, with what libraries say in its log; a line if that fails."""
    from src.command.reporting import leave_report
    from src.display.terminal import only_ours

    with only_ours(folder / "survey.log", verbose=False):
        return leave_report(folder)


def _page(folder: Path) -> str | None:
    """What to open or type to compare the survey's members."""
    from src.tracking.surveys import read_parent

    tracker = _tracker()
    parent = read_parent(folder, tracker.uri) if tracker.uri is not None else None
    return tracker.page(parent.run_id if parent is not None else None)


def _tracker() -> Tracker:
    """The tracking store of the survey; none if a mistake in its config has failed every member."""
    from src.command.composition import build_tracker
    from src.contracts import InputError, Tracker

    try:
        return build_tracker(Survey.tracking or {"_target_": "src.tracking.off.Off"})
    except InputError:
        return Tracker()


def _prefix(job: Job) -> str:
    """``[2/4] `` for a survey's member; empty for a single run."""
    return f"[{job.number + 1}/{os.environ.get(MEMBERS, '?')}] " if job.survey is not None else ""


def _show(terminal: TextIO, results: Results | Outcome, notes: Sequence[str], written: str) -> None:
    """The table, what could be misread in it, what fell short, and where it all is; the rows to whoever wants them."""
    from src.display.tables import highlighted, remarks, table
    from src.tracking import provenance

    said = [*remarks(results.rows), *notes, *provenance.remarks()]
    for text in ["", *highlighted(table(results.entries, results.refused), terminal), "", *said, written]:
        print(text, file=terminal)
    for row in results.record()["rows"] if Survey.rows_to is not None else ():
        print(json.dumps(row, ensure_ascii=False), file=Survey.rows_to, flush=True)


def _written(folder: Path, content: str, compare: str | None) -> str:
    """Where the results are, and how to compare them with others."""
    from src.display.terminal import shown

    where = f"Written: {shown(folder)}{content}"
    return where if compare is None else f"{where}\nCompare: {compare}"
