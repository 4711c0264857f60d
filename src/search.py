"""The best model within a budget: ``python -m src.search +search=cifar_budget``."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    from src.study.claims import Claims
    from src.study.judging import Judge
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
OWN = ("search.", "space.", "~space", "sampler@", "workers=", "worker=", "hydra")  # say nothing of a model


def main() -> int:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(command.help_text(USAGE, ("search", "space", "sampler")))
        return DONE
    return command.run_command(_hydra)


def _hydra() -> int:
    import hydra

    from src.composition import register_resolvers
    from src.contracts import InputError

    if not any(given.startswith("+search=") for given in sys.argv[1:]):
        names = ", ".join(name for name, _ in command.described("search"))
        raise InputError(f"Which search? +search=NAME; there are: {names}")
    register_resolvers()
    codes: list[int] = []
    errors: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(command.CONF), config_name="search")
    def task(config: DictConfig) -> None:
        if config.worker is not None:
            _work(_asked(config))
            return
        try:
            codes.append(_search(_asked(config)))
        except Exception as error:
            errors.append(error)

    task()
    if errors:
        raise errors[0]
    return max(codes, default=DONE)


@dataclass(frozen=True)
class _Asked:
    """What the command line asked for.

    Attributes:
        resolved: The whole config.
        choices: Hydra's: which file each group came from.
        overrides: As given, and the threads that are dealt out.
        folder: Of the search, as a user would write it.
        command: That goes on with it.
    """

    resolved: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    folder: Path
    command: str

    @property
    def search(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.resolved["search"]
        return settings

    @property
    def locks(self) -> Path:
        """Beside the stages, apart for each storage."""
        storage = hashlib.md5(self.search["storage"].encode()).hexdigest()[:8]
        return Path(self.resolved["artifacts"]).expanduser().resolve() / ".locks" / f"search-{storage}"


def _asked(config: DictConfig) -> _Asked:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from src.console import shown
    from src.training.recipe import usable_cores

    hydra_config = HydraConfig.get()
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    given = list(hydra_config.overrides.task)
    _check(resolved)
    overrides = [each for each in given if not each.startswith(("worker=", "workers="))]
    if resolved["training"]["threads"] == "auto":
        threads = max(1, usable_cores() // resolved["workers"])
        resolved["training"]["threads"] = threads
        overrides.append(f"training.threads={threads}")
    return _Asked(
        resolved,
        dict(hydra_config.runtime.choices),
        overrides,
        shown(Path(hydra_config.runtime.output_dir)),
        shlex.join(["python", "-m", "src.search", *(each for each in given if not each.startswith("worker="))]),
    )


def _check(resolved: Mapping[str, Any]) -> None:
    """Raise InputError where a setting of the search is of the wrong kind."""
    import re

    from src.contracts import InputError

    settings = resolved["search"]
    whole = {
        "workers": resolved["workers"],
        **{f"search.{n}": settings[n] for n in ("trials", "finalists", "attempts")},
    }
    for key, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{key} must be a whole number from 1, and is {value}")
    for name in ("objectives", "lengths", "first", "sensitivity_drops"):
        if not isinstance(settings[name], list):
            raise InputError(f"search.{name} must be a list, and is {settings[name]}")
    lengths = settings["lengths"]
    numbers = lengths and all(isinstance(length, (int, float)) for length in lengths)
    if not numbers or lengths != sorted(lengths) or lengths[0] <= 0 or lengths[-1] != 1:
        raise InputError(f"search.lengths must ascend to 1 from more than 0, and are {lengths}")
    if not all(isinstance(point, dict) for point in settings["first"]):
        raise InputError(f"search.first must be a list of points, {{prune.sparsity: 0.9}}, and is {settings['first']}")
    if not re.fullmatch(r"[\w.-]+", str(settings["name"])):
        raise InputError(f"search.name must be of letters, digits, '_', '-' and '.', and is {settings['name']!r}")
    for name in ("storage", *(["target"] if settings["target"] is not None else [])):
        if not isinstance(settings[name], str):
            raise InputError(f"search.{name} must be a word, and is {settings[name]}")
    if not isinstance(resolved["budget"], dict) or not isinstance(resolved["space"], dict):
        raise InputError("budget and space must hold settings by their keys")


def _search(asked: _Asked) -> int:
    """Search, finish the best, print and track; return the exit code."""
    from src.console import Report, only_ours

    with only_ours(asked.folder / "run.log", verbose=asked.resolved["verbose"]) as terminal:
        from src.study import telling
        from src.study.claims import finished
        from src.tracking.study import StudyTracking

        report = Report(terminal, "")
        trials, plan = _prepare(asked)
        points = _first(asked, trials.space)
        _promise(asked, trials, plan, report)
        study = _study(asked, trials)
        baseline = _finish(asked, ["method=baseline"], "baseline", terminal)
        trials = replace(trials, judge=_judge(asked, trials, baseline))
        _begin(study, points)
        tracking = StudyTracking(asked.resolved["tracking"].get("uri"), asked.folder)
        started, before = time.perf_counter(), len(finished(study))

        def tell() -> None:
            took = time.perf_counter() - started
            tracking.trials([telling.record(trial, trials.judge) for trial in finished(study)])
            report.line(telling.progress(study, trials.judge, asked.search["trials"], before, took))

        status = "FAILED"
        try:
            _work_together(asked, study, trials, tell, report)
            chosen, finalists, notes = _finalists(asked, study, trials, tracking, report)
            _write(asked, study, trials, plan, baseline, chosen, finalists)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracking.finish(status, telling.figures(study))
        _say(asked, study, trials, baseline, chosen, finalists, notes, report)
        if chosen is not None:
            _register(asked, tracking, study, trials, baseline, chosen, finalists[chosen], report)
        if tracking.failure is not None:
            report.line(f"{tracking.failure}. The results are complete in {asked.folder}.")
    if tracking.failure is not None:
        return TRACKING_FAILED
    return DONE if chosen is not None else BUDGET_MISSED


def _work(asked: _Asked) -> None:
    """Be one of many workers: take trials from the study until none is left."""
    from src.console import only_ours

    with only_ours(asked.folder / "run.log", verbose=asked.resolved["verbose"]) as terminal:
        trials, _ = _prepare(asked)
        baseline = _finish(asked, ["method=baseline"], "baseline", terminal, tracked=False)
        trials = replace(trials, judge=_judge(asked, trials, baseline))
        study = _study(asked, trials)
        trials.work(study, _claims(asked, study), lambda: None)


# What is searched --------------------------------------------------------------------------------------


def _prepare(asked: _Asked) -> tuple[Trials, Plan]:
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
    if target not in plan.targets:
        raise InputError(f"search.target must be one of {', '.join(plan.targets)}, and is {target}")
    splits = plan.data.value.load()
    steps = {name: build(resolved["space"], name, key=f"space.{name}") for name in resolved["space"]}
    try:
        space = Space(steps, weight_names(build_model(plan.model.value, splits, plan.seed)))
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        judge = Judge(tuple(settings["objectives"]), build(resolved, "budget", Budget), float("nan"))
    except ValueError as error:
        raise InputError(f"search.{error}") from error
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


def _plan(asked: _Asked, space: Space, point: Point, number: int, length: float, target: str) -> Plan:
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


def _promise(asked: _Asked, trials: Trials, plan: Plan, report: Report) -> None:
    """Say what is searched and how small it can get; refuse a budget that is out of reach."""
    from src.contracts import InputError
    from src.study.reach import least, reach

    objectives, space = asked.search["objectives"], trials.space
    report.line(
        f"{plan.name}: {plan.model_name} on {trials.splits.name}, {asked.search['trials']} trials for "
        f"{' and '.join(objectives)} on {trials.target}"
    )
    optional = [name for name, step in space.steps.items() if step.optional]
    found: list[dict[str, float]] = []
    softened = False
    # A step may cost more than it saves in a small network, so where all together miss, all but one are asked, too.
    for without in [[], *([name] for name in optional), optional]:
        for soft in (0.0, 0.25, 0.5, 0.75):
            try:
                found.append(least(trials.plan_of(space.hardest(without, soft), 0, 1.0), trials.splits, trials.judge))
            except InputError:  # not each point of a space can be made
                continue
            softened |= soft > 0
            break
        try:
            said = reach(found, trials.judge, softened=softened)
        except InputError:
            if without == optional:
                raise
        else:
            report.line(said)
            return


def _judge(asked: _Asked, trials: Trials, baseline: Sequence[Row]) -> Judge:
    accuracy = next(row.accuracy_validation for row in baseline if row.target == trials.target)
    return replace(trials.judge, baseline=accuracy)


def _study(asked: _Asked, trials: Trials) -> optuna.Study:
    from src.stages.identity import files_of
    from src.study.claims import open_study

    fixed = {name: asked.resolved[name] for name in ("data", "model", "training", "target", "space", "budget", "seed")}
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


def _first(asked: _Asked, space: Space) -> list[Point]:
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


# Working -----------------------------------------------------------------------------------------------


def _claims(asked: _Asked, study: optuna.Study) -> Claims:
    from src.composition import build
    from src.study.claims import Claims

    return Claims(
        study,
        build(asked.search, "sampler", key="search.sampler"),
        seed=asked.resolved["seed"],
        trials=asked.search["trials"],
        attempts=asked.search["attempts"],
        locks=asked.locks,
    )


def _work_together(
    asked: _Asked, study: optuna.Study, trials: Trials, tell: Callable[[], None], report: Report
) -> None:
    """Let the workers work, as jobs of Hydra's launcher, then do what they left."""
    from src.study.claims import finished
    from src.training.recipe import usable_cores

    workers, seen = asked.resolved["workers"], len(finished(study))
    if workers > 1 and seen < asked.search["trials"]:
        launcher = asked.choices.get("hydra/launcher", "basic")
        launch = [f"hydra/launcher={launcher if launcher != 'basic' else 'joblib'}"]
        launch += [f"hydra.launcher.n_jobs={workers}"] if launcher in ("basic", "joblib") else []
        own = [given for given in sys.argv[1:] if not given.startswith(("hydra/launcher=", "training.threads="))]
        threads = asked.resolved["training"]["threads"]
        jobs = [*own, f"training.threads={threads}", f"worker={','.join(map(str, range(workers)))}", *launch]
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, usable_cores() // workers))}
        with (asked.folder / "workers.log").open("a") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "src.search", "-m", *jobs],
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    time.sleep(0.5)
                    if len(finished(study)) > seen:
                        seen = len(finished(study))
                        tell()
            finally:
                _end(process)
        if process.returncode:
            report.line(f"Workers failed (see {asked.folder / 'workers.log'}); this process goes on alone.")
    while True:
        trials.work(study, _claims(asked, study), tell)
        if len(finished(study)) >= asked.search["trials"]:
            return
        time.sleep(1)  # another process has the last ones; if it dies they are taken up here


def _end(process: subprocess.Popen[bytes]) -> None:
    """End workers that still run, all processes of theirs; what they were at is taken up the next time."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _finalists(
    asked: _Asked, study: optuna.Study, trials: Trials, tracking: StudyTracking, report: Report
) -> tuple[int | None, dict[int, list[Row]], list[str]]:
    """Export the few best for every target and measure them on the test set; choose by validation data.

    Returns:
        The chosen trial, each finalist's rows, and what is to be said of those that miss the budget after all.
    """
    from src.contracts import TrackingError
    from src.study import telling
    from src.study.judging import COLUMNS

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
        # A chain of no step is the baseline.
        finalists[number] = [row for row in rows if row.variant != "baseline"] or rows
        counted = next(row for row in finalists[number] if row.target == trials.target)
        values = {name: float(getattr(counted, name)) for name in COLUMNS if getattr(counted, name) is not None}
        if trials.judge.keeps(values):
            within[number] = values
        else:
            notes.append(f"Trial {number}, measured once more, misses the budget: {trials.judge.missed(values)}.")
    chosen = min(within, key=lambda number: trials.judge.order(within[number]), default=None)
    return chosen, finalists, notes


def _finish(
    asked: _Asked, overrides: Sequence[str], folder_name: str, terminal: TextIO, *, tracked: bool = True
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
        command=_again(asked, overrides),
        overrides=[*_own(asked), *overrides],
        survey=asked.folder.absolute(),
    )
    return list(done.rows)


# What comes of it --------------------------------------------------------------------------------------


def _own(asked: _Asked) -> list[str]:
    """What of the command line says something of a model."""
    return [given for given in asked.overrides if not given.startswith(OWN)]


def _again(asked: _Asked, overrides: Sequence[str]) -> str:
    """The one command that makes a model again."""
    return shlex.join(["python", "-m", "src.run", *_own(asked), *overrides])


def _command(asked: _Asked, study: optuna.Study, trials: Trials, number: int) -> str:
    from src.study import telling

    return _again(asked, trials.space.overrides(telling.point(study, number), f"trial_{number}"))


def _write(
    asked: _Asked,
    study: optuna.Study,
    trials: Trials,
    plan: Plan,
    baseline: Sequence[Row],
    chosen: int | None,
    finalists: Mapping[int, Sequence[Row]],
) -> None:
    """``results.json`` and ``metrics.json`` of the finalists, ``search.json`` of all trials, ``front.png``."""
    from omegaconf import OmegaConf

    from src import results
    from src.study import telling
    from src.study.claims import finished
    from src.tracking.provenance import git_commit

    (asked.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asked.resolved)))
    front = trials.judge.front(telling.whole(study))
    header = {
        "identity": finalists[chosen][0].identity if chosen is not None else baseline[0].identity,
        "experiment": plan.name,
        "seed": plan.seed,
        "git_commit": git_commit(),
        "command": asked.command,
        "overrides": asked.overrides,
        "budget_missed": [] if chosen is not None else [telling.nearest(study, trials.judge)],
        "tracking_error": None,
        "tracking_uri": asked.resolved["tracking"].get("uri"),
    }
    rows = [*baseline, *(row for found in finalists.values() for row in found if row.variant != "baseline")]
    results.write_results(asked.folder, rows, header, None)
    results.write_search(
        asked.folder,
        {
            "name": asked.search["name"],
            "target": trials.target,
            "objectives": list(trials.judge.objectives),
            "budget": asked.resolved["budget"],
            "baseline_accuracy_validation": trials.judge.baseline,
            "chosen": chosen,
            "commands": {str(number): _command(asked, study, trials, number) for number in finalists},
            "front": front,
            "trials": [telling.described(trial, trials.judge) for trial in finished(study)],
            **telling.figures(study),
        },
    )
    telling.draw(study, trials.judge, front, chosen, asked.folder / "front.png")


def _say(
    asked: _Asked,
    study: optuna.Study,
    trials: Trials,
    baseline: Sequence[Row],
    chosen: int | None,
    finalists: Mapping[int, Sequence[Row]],
    notes: Sequence[str],
    report: Report,
) -> None:
    """The front, the finalists' rows, the chosen model's files and the command that makes it again."""
    from src import results
    from src.console import remarks, table
    from src.study import telling
    from src.study.claims import REASON, finished

    judge, rows = trials.judge, results.rows_of(asked.folder)
    front = judge.front(telling.whole(study))
    lines = ["", f"The front ({len(front)} of {len(finished(study))} trials):"]
    lines += telling.front_table(study, judge, front)
    lines += ["", *table(rows), "", *remarks(rows), *notes]
    failed = [trial for trial in finished(study) if REASON in trial.user_attrs]
    lines += [f"Failed: trial {trial.number}: {trial.user_attrs[REASON]}" for trial in failed]
    if chosen is None:
        lines.append(telling.nearest(study, judge))
    else:
        row = next(row for row in finalists[chosen] if row.target == trials.target)
        before = next(row for row in baseline if row.target == trials.target)
        drop = 100 * (before.accuracy - row.accuracy)
        allowed = judge.budget.accuracy_drop
        over = allowed is not None and round(before.accuracy - row.accuracy - allowed, 9) > 0
        lines.append(
            f"Chosen: trial {chosen}, {telling.spoken('accuracy', row.accuracy)} of the test set (drop {drop:.2f})"
            + (
                f"; on the test set the budget of {100 * allowed:.2f} points is missed"
                if over and allowed is not None
                else ""
            )
        )
        lines += [f"  {asked.folder / f'trial_{chosen}' / each.artifact}" for each in finalists[chosen]]
        lines.append(f"Made again by: {_command(asked, study, trials, chosen)}")
    share = telling.figures(study)["overhead_share"]
    lines.append(
        f"Written: {asked.folder} (search.json, front.png)    {100 * share:.1f} % of the time went to the search"
    )
    for line in lines:
        report.line(line)


def _register(
    asked: _Asked,
    tracking: StudyTracking,
    study: optuna.Study,
    trials: Trials,
    baseline: Sequence[Row],
    chosen: int,
    rows: Sequence[Row],
    report: Report,
) -> None:
    """Put the chosen model into the registry, and move the aliases for which it is better."""
    import json
    from dataclasses import asdict

    from src.study import telling
    from src.tracking.provenance import git_commit

    row = next(row for row in rows if row.target == trials.target)
    budget = {name: limit for name, limit in asked.resolved["budget"].items() if limit is not None}
    about = {
        "objective": trials.judge.objectives[0],
        "budget": json.dumps(budget),
        "within_budget": "true",
        "command": _command(asked, study, trials, chosen),
        "git_commit": git_commit(),
        "point": json.dumps(telling.point(study, chosen)),
    }
    for line in tracking.register(
        f"{row.data}-{row.model}", [asdict(each) for each in (*rows, *baseline)], asdict(row), about
    ):
        report.line(line)


if __name__ == "__main__":
    from src.search import main as imported  # workers find what they are sent in a module, not in __main__

    sys.exit(imported())
