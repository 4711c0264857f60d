"""The best model within a budget: ``python -m src.search +search=cifar_budget``."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from src import command
from src.command import BUDGET_MISSED, DONE, TRACKING_FAILED

if TYPE_CHECKING:
    import optuna
    from omegaconf import DictConfig

    from src.console import Report
    from src.contracts import Row
    from src.plan import Plan
    from src.study.asked import Asked
    from src.study.claims import Claims, MakeSampler
    from src.study.judging import Judge
    from src.study.outcome import Outcome
    from src.study.space import Point, Space
    from src.study.trials import Trials
    from src.tracking.study import StudyTracking

USAGE = """\
python -m src.search +search=NAME [key=value ...]    the best model within a budget, and the front of trade-offs

Cut off? The same command goes on. More trials: search.trials=80. Another budget or space: a name of its own, too,
search.name=mine.

budget.accuracy_drop=0.005  budget.size_bytes=50000  budget.latency_ms=0.1  search.objectives=[size_gzip_bytes]
space.prune.choose.sparsity.hardest=0.9  sampler@search.sampler=random  workers=2  hydra/launcher=ray
"""
# What a study's trials have in common.
FIXED = ("data", "model", "training", "target", "board", "timing", "space", "budget", "seed")


def main() -> int:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(command.help_text(USAGE, ("search", "space", "sampler")))
        return DONE
    return command.run_command(_hydra)


def _hydra() -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from src.composition import register_resolvers
    from src.contracts import InputError
    from src.results import discard
    from src.study.claims import answering

    if not any(given.startswith("+search=") for given in sys.argv[1:]):
        names = ", ".join(name for name, _ in command.described("search"))
        raise InputError(f"Which search? +search=NAME; there are: {names}")
    register_resolvers()
    codes: list[int] = []
    errors: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(command.CONF), config_name="search")
    def task(config: DictConfig) -> None:
        if config.worker is not None:
            asked = _asked(config)
            with answering(asked.search["storage"]):
                _work(asked)
            return
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            asked = _asked(config)
            with answering(asked.search["storage"]):
                codes.append(_search(asked))
        except Exception as error:
            if isinstance(error, InputError):
                discard(folder)
            errors.append(error)

    task()
    if errors:
        raise errors[0]
    return max(codes, default=DONE)


def _asked(config: DictConfig) -> Asked:
    """What the running job of Hydra's was asked for; raises InputError where a setting of the search is wrong."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from src.console import shown
    from src.study.asked import Asked, check
    from src.training.recipe import usable_cores

    hydra_config = HydraConfig.get()
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    given = list(hydra_config.overrides.task)
    check(resolved)
    overrides = [each for each in given if not each.startswith(("worker=", "workers="))]
    if resolved["training"]["threads"] == "auto":
        threads = max(1, usable_cores() // resolved["workers"])
        resolved["training"]["threads"] = threads
        overrides.append(f"training.threads={threads}")
    return Asked(
        resolved,
        dict(hydra_config.runtime.choices),
        overrides,
        shown(Path(hydra_config.runtime.output_dir)),
        shlex.join(["python", "-m", "src.search", *(each for each in given if not each.startswith("worker="))]),
    )


def _search(asked: Asked) -> int:
    """Search, finish the best, print and track; return the exit code."""
    from src.console import Report, only_ours

    with only_ours(asked.folder / "run.log", verbose=asked.resolved["verbose"]) as terminal:
        from src.study import telling
        from src.study.claims import finished
        from src.study.reach import promise
        from src.tracking.study import StudyTracking

        report = Report(terminal, "")
        trials, plan = _prepare(asked)
        points = _first(asked, trials.space)
        report.line(
            f"{plan.name}: {plan.model_name} on {trials.splits.name}, {asked.search['trials']} trials for "
            f"{' and '.join(asked.search['objectives'])} on {trials.target}"
        )
        report.line(promise(trials.space, lambda point: trials.plan_of(point, 0, 1.0), trials.splits, trials.judge))
        study = _study(asked, trials)
        _same_parent(asked, study)
        baseline = _finish(asked, ["method=baseline"], "baseline", terminal)
        trials = replace(trials, judge=_judge(asked, trials, baseline))
        _begin(study, points)
        where = asked.resolved["tracking"]
        tracking = StudyTracking(where.get("uri"), asked.folder, where.get("tags") or {})
        started, before = time.perf_counter(), len(finished(study))

        def tell() -> None:
            took = time.perf_counter() - started
            tracking.trials([telling.record(trial, trials.judge) for trial in finished(study)])
            report.line(telling.progress(study, trials.judge, asked.search["trials"], before, took))

        status = "FAILED"
        try:
            _work_together(asked, study, trials, tell, report)
            outcome = _finalists(asked, study, trials, baseline, tracking, report)
            _write(asked, plan, outcome)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracking.finish(status, telling.figures(study))
        said = [*outcome.lines(), *(_registered(asked, tracking, outcome) if outcome.chosen is not None else [])]
        if tracking.failure is not None:
            said.append(f"{tracking.failure}. The results are complete in {asked.folder}.")
        for line in said:
            report.line(line)
    if tracking.failure is not None:
        return TRACKING_FAILED
    return DONE if outcome.chosen is not None else BUDGET_MISSED


def _work(asked: Asked) -> None:
    """Be one of many workers: take trials from the study until none is left."""
    from src.console import only_ours

    with only_ours(asked.folder / "run.log", verbose=asked.resolved["verbose"]) as terminal:
        trials, _ = _prepare(asked)
        baseline = _finish(asked, ["method=baseline"], "baseline", terminal, tracked=False)
        trials = replace(trials, judge=_judge(asked, trials, baseline))
        study = _study(asked, trials)
        trials.work(study, _claims(asked, study, trials.space), lambda: None)


# What is searched --------------------------------------------------------------------------------------


def _prepare(asked: Asked) -> tuple[Trials, Plan]:
    """The trials' common part and the baseline's plan; what is wrong with the input is found out here."""
    from src.composition import build, build_plan
    from src.contracts import InputError
    from src.models.build import build_model
    from src.primitives.layers import weight_names
    from src.results import Budget
    from src.stages.store import StageStore
    from src.study.judging import Judge
    from src.study.space import Space
    from src.study.trials import Trials

    resolved, settings = asked.resolved, asked.search
    plan = replace(build_plan(resolved, asked.choices), steps={}, variant="baseline")
    target = settings["target"] or next(iter(plan.targets))
    _sampler(asked)
    if target not in plan.targets:
        raise InputError(f"search.target must be one of {', '.join(plan.targets)}, and is {target}")
    try:
        judge = Judge(tuple(settings["objectives"]), build(resolved, "budget", Budget), float("nan"))
    except ValueError as error:
        raise InputError(f"search.{error}") from error
    if judge.timed and getattr(plan.targets[target].value, "stand_in", False):
        raise InputError(
            f"Latency counts, and target {target} is run by another runtime here, whose times say nothing of it: "
            "choose another search.target"
        )
    splits = plan.data.value.load()
    steps = {name: build(resolved["space"], name, key=f"space.{name}") for name in resolved["space"]}
    try:
        space = Space(steps, weight_names(build_model(plan.model.value, splits, plan.seed)))
    except ValueError as error:
        raise InputError(str(error)) from error
    trials = Trials(
        space=space,
        judge=judge,
        stopping=build(settings, "stopping", key="search.stopping"),
        lengths=settings["lengths"],
        plan_of=lambda point, number, length: _plan(asked, space, point, number, length, target),
        splits=splits,
        store=StageStore(Path(resolved["artifacts"])),
        target=target,
    )
    return trials, plan


def _plan(asked: Asked, space: Space, point: Point, number: int, length: float, target: str) -> Plan:
    """The plan of a point for the one target that counts, its steps fine-tuned for a share ``length``."""
    from src.composition import build_plan
    from src.study.trials import shortened

    config, choices = _composed(*asked.overrides, *space.overrides(point, f"trial_{number}"))
    plan = build_plan(shortened(config, length), choices)
    return replace(plan, targets={target: plan.targets[target]})


@lru_cache(maxsize=1)
def _composed(*overrides: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What Hydra makes of a trial's overrides; the last is kept for the trial's next length of fine-tuning."""
    from src.composition import composed

    return composed(overrides, "search")


def _judge(asked: Asked, trials: Trials, baseline: Sequence[Row]) -> Judge:
    accuracy = next(row.accuracy_validation for row in baseline if row.target == trials.target)
    return replace(trials.judge, baseline=accuracy)


def _study(asked: Asked, trials: Trials) -> optuna.Study:
    from src.stages.identity import files_of
    from src.study.claims import open_study

    fixed = {name: asked.resolved[name] for name in FIXED}
    fixed["data"] = {**fixed["data"], "root": None, "checksum": trials.splits.checksum}
    # A machine with other cores may join; weights count by their content.
    fixed["training"] = {key: value for key, value in fixed["training"].items() if key not in ("threads", "device")}
    fixed["files"] = files_of(fixed["model"])
    settings = {key: asked.search[key] for key in ("objectives", "target", "lengths", "sampler", "first")}
    return open_study(
        asked.search["storage"],
        asked.search["name"],
        trials.judge.directions,
        {**fixed, "search": settings},
        asked.locks,
    )


def _first(asked: Asked, space: Space) -> list[Point]:
    """The points to begin with; raises InputError where one names no dimension."""
    from src.contracts import InputError
    from src.primitives.sensitivity import read_sensitivity

    try:
        points = [space.complete(given) for given in asked.search["first"]]
    except ValueError as error:
        raise InputError(f"search.first: {error}") from error
    if asked.search["sensitivity"] is not None:
        try:
            record = read_sensitivity(asked.search["sensitivity"])
        except ValueError as error:
            raise InputError(f"search.sensitivity: {error}") from error
        points += [space.seeded(record, drop) for drop in asked.search["sensitivity_drops"]]
    return points


def _begin(study: optuna.Study, points: Sequence[Point]) -> None:
    """Queue the points to begin with, once."""
    if not study.user_attrs.get("begun"):
        for point in points:
            study.enqueue_trial(point, skip_if_exists=True)
        study.set_user_attr("begun", True)


def _same_parent(asked: Asked, study: optuna.Study) -> None:
    """Let a study that was begun anew in the same folder have a run of its own in the tracking store."""
    from src.study.claims import ID
    from src.tracking.mlflow import PARENT

    mark = asked.folder / ".study"
    if mark.is_file() and mark.read_text() != study.user_attrs[ID]:
        (asked.folder / PARENT).unlink(missing_ok=True)
    mark.write_text(study.user_attrs[ID])


# Working -----------------------------------------------------------------------------------------------


def _sampler(asked: Asked) -> MakeSampler:
    """What makes the samplers; raises InputError where a setting is wrong."""
    from src.composition import build
    from src.contracts import InputError

    make: MakeSampler = build(asked.search, "sampler", key="search.sampler")
    try:
        make(seed=asked.resolved["seed"])
    except (TypeError, ValueError) as error:
        raise InputError(f"search.sampler: {error}") from error
    return make


def _claims(asked: Asked, study: optuna.Study, space: Space) -> Claims:
    from src.study.claims import Claims

    return Claims(
        study,
        _sampler(asked),
        space.choose,
        seed=asked.resolved["seed"],
        trials=asked.search["trials"],
        attempts=asked.search["attempts"],
        locks=asked.locks,
    )


def _work_together(asked: Asked, study: optuna.Study, trials: Trials, tell: Callable[[], None], report: Report) -> None:
    """Let the workers work, then do what they left; return when every trial is finished, whoever had it."""
    from src.study.claims import finished
    from src.study.workers import LOG, run_workers

    seen = len(finished(study))

    def watch() -> None:
        nonlocal seen
        if len(finished(study)) > seen:
            seen = len(finished(study))
            tell()

    if asked.resolved["workers"] > 1 and seen < asked.search["trials"]:
        well = run_workers(
            sys.argv[1:],
            workers=asked.resolved["workers"],
            launcher=asked.choices.get("hydra/launcher", "basic"),
            threads=asked.resolved["training"]["threads"],
            folder=asked.folder,
            watch=watch,
        )
        if not well:
            report.line(f"Workers failed (see {asked.folder / LOG}); this process goes on alone.")
    while True:
        trials.work(study, _claims(asked, study, trials.space), tell)
        if len(finished(study)) >= asked.search["trials"]:
            return
        time.sleep(1)  # another process has the last ones; if it dies they are taken up here


def _finalists(
    asked: Asked,
    study: optuna.Study,
    trials: Trials,
    baseline: Sequence[Row],
    tracking: StudyTracking,
    report: Report,
) -> Outcome:
    """Export the few best for every target and measure them on the test set; choose by validation data."""
    from src.contracts import TrackingError
    from src.study import telling
    from src.study.judging import COLUMNS
    from src.study.outcome import Outcome

    commands: dict[int, str] = {}
    finalists: dict[int, list[Row]] = {}
    within: dict[int, dict[str, float]] = {}
    notes = []
    for number in telling.best(study, trials.judge):
        if len(finalists) >= asked.search["finalists"] and within:
            break
        chain = trials.space.overrides(telling.point(study, number), f"trial_{number}")
        try:
            rows = _finish(asked, chain, f"trial_{number}", report.terminal, tracked=tracking.failure is None)
        except TrackingError as error:  # the store died meanwhile: the results are finished without it
            tracking.failed(error)
            rows = _finish(asked, chain, f"trial_{number}", report.terminal, tracked=False)
        commands[number] = asked.again(chain)
        # A chain of no step is the baseline.
        finalists[number] = [row for row in rows if row.variant != "baseline"] or rows
        counted = next(row for row in finalists[number] if row.target == trials.target)
        values = {name: float(getattr(counted, name)) for name in COLUMNS if getattr(counted, name) is not None}
        if trials.judge.keeps(values):
            within[number] = values
        else:
            notes.append(f"Trial {number}, measured once more, misses the budget: {trials.judge.missed(values)}.")
    chosen = min(within, key=lambda number: trials.judge.order(within[number]), default=None)
    return Outcome(study, trials.judge, trials.target, asked.folder, baseline, finalists, chosen, notes, commands)


def _finish(
    asked: Asked, overrides: Sequence[str], folder_name: str, terminal: TextIO, *, tracked: bool = True
) -> list[Row]:
    """Run what ``overrides`` make of the search's config as ``python -m src.run`` would; return its rows."""
    from src.console import Report
    from src.execution import execute

    config, choices = _composed(*asked.overrides, *overrides)
    if not tracked:
        config = {**config, "tracking": {"_target_": "src.tracking.off.Off"}}
    folder = (asked.folder / folder_name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    done = execute(
        {**config, "budget": dict.fromkeys(config["budget"])},  # judged as a whole, later
        choices,
        folder,
        report=Report(terminal, ""),
        command=asked.again(overrides),
        overrides=[*asked.own, *overrides],
        parent=asked.folder.absolute(),
    )
    return list(done.rows)


# What comes of it --------------------------------------------------------------------------------------


def _write(asked: Asked, plan: Plan, outcome: Outcome) -> None:
    """The whole config, ``results.json`` and ``metrics.json`` of the finalists, and what the outcome writes."""
    from omegaconf import OmegaConf

    from src import results
    from src.execution import header_of
    from src.study import telling

    (asked.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asked.resolved)))
    header = header_of(plan, outcome.identity, asked.resolved, command=asked.command, overrides=asked.overrides)
    if outcome.chosen is None:
        header["budget_missed"] = [telling.nearest(outcome.study, outcome.judge)]
    results.write_results(asked.folder, outcome.rows, header)
    outcome.write(asked.resolved["budget"])


def _registered(asked: Asked, tracking: StudyTracking, outcome: Outcome) -> list[str]:
    """Put the chosen model into the registry, and move the aliases for which it is better; say what became of it."""
    from dataclasses import asdict

    limits = {name: limit for name, limit in asked.resolved["budget"].items() if limit is not None}
    row, about = outcome.registration(limits)
    assert outcome.chosen is not None
    files = [asdict(each) for each in (*outcome.finalists[outcome.chosen], *outcome.baseline)]
    return tracking.register(f"{row.data}-{row.model}", files, asdict(row), about)


if __name__ == "__main__":
    from src.search import main as imported  # workers find what they are sent in a module, not in __main__

    sys.exit(imported())
