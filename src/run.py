"""Run one experiment, or a survey of many: ``python -m src.run +experiment=cifar_prune``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import command
from src.command import BUDGET_MISSED, DONE, FAILED, TRACKING_FAILED, WRONG_INPUT

if TYPE_CHECKING:
    from omegaconf import DictConfig

USAGE = """\
python -m src.run +experiment=NAME [key=value ...]         one experiment, or the survey that it describes
python -m src.run -m +experiment=NAME seed=0,1,2           every combination; the table says mean and spread
python -m src.run data=D model=M method=C target=[T1,T2]   without an experiment file

seed=0  refresh=true (make found stages anew)  verbose=true (show what libraries print)
budget.accuracy_drop=0.005  budget.size_bytes=50000  budget.latency_ms=0.1   (exit 4 when missed)
"""
GROUPS = ("experiment", "method", "data", "model", "training", "target", "tracking")


def main() -> int:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(command.help_text(USAGE, GROUPS))
        return DONE
    return command.run_command(_hydra)


def _hydra() -> int:
    """Let Hydra compose and call ``_member`` for each job; return the exit code of them together."""
    import hydra

    from src.survey import Survey

    register_resolvers()
    Survey.reset()
    codes: list[int] = []
    errors: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(command.CONF), config_name="config")
    def task(config: DictConfig) -> None:
        # An error is kept rather than raised: a survey's other members go on, and Hydra prints nothing of its own.
        try:
            codes.append(_member(config))
        except Exception as error:
            errors.append(error)

    task()
    if Survey.folder is not None and Survey.folder.is_dir():
        return _conclude_survey(Survey.folder)
    if errors:
        raise errors[0]
    return max(codes, default=DONE)


def register_resolvers() -> None:
    """The two calculations that configs may use: ``${times:value,factor}`` and ``${share:count,share}``."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("times", lambda value, factor: value * factor, replace=True)
    OmegaConf.register_new_resolver("share", lambda count, share: max(1, round(count * share)), replace=True)


def _member(config: DictConfig) -> int:
    """Run one experiment in Hydra's folder; in a survey, note a failure there before it is raised."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from src import results

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    survey = Path(hydra_config.sweep.dir).absolute() if hydra_config.mode is RunMode.MULTIRUN else None
    try:
        return _experiment(config, folder, survey)
    except Exception as error:
        line, code = command.explain(error)
        if survey is None and code == WRONG_INPUT:
            _discard(folder)
        if survey is not None:
            kind = "input" if code == WRONG_INPUT else "error"
            results.write_failure(folder, overrides=list(hydra_config.overrides.task), reason=line, kind=kind)
            results.write_survey(survey)
            member = f"{hydra_config.job.num + 1}/{os.environ.get('DNNC_SURVEY_MEMBERS', '?')}"
            print(f"[{member}] failed: {line}", file=sys.stderr)
        raise


def _experiment(config: DictConfig, folder: Path, survey: Path | None) -> int:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from src import results
    from src.console import only_ours, remarks, table
    from src.survey import MEMBERS, STARTED

    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    hydra_config = HydraConfig.get()
    chosen = dict(hydra_config.runtime.choices)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(resolved)))
    overrides = list(hydra_config.overrides.task)
    again = " ".join(["python -m src.run", *map(_quoted, overrides), *(["hydra.mode=RUN"] if survey else [])])
    prefix = f"[{hydra_config.job.num + 1}/{os.environ.get(MEMBERS, '?')}] " if survey else ""
    refresh_before = float(os.environ.get(STARTED) or time.time()) if resolved["refresh"] else None
    with only_ours(folder / "run.log", verbose=resolved["verbose"]) as terminal:
        from src.console import Report
        from src.experiment import Experiment
        from src.stages.store import StageStore
        from src.tracking.guard import Guard
        from src.tracking.provenance import git_commit

        report = Report(terminal, prefix)
        plan = build_plan(resolved, chosen)
        budget = _instantiate(resolved, "budget", results.Budget)
        tracker = Guard(_tracker(resolved, again, folder, survey))
        status = "FAILED"
        try:
            store = StageStore(Path(resolved["artifacts"]), refresh_before)
            experiment = Experiment(plan, store=store, tracker=tracker, report=report, folder=folder)
            rows = experiment.run()
            misses = budget.misses(rows)
            header = {
                "identity": rows[-1].identity,
                "experiment": plan.name,
                "seed": plan.seed,
                "git_commit": git_commit(),
                "command": again,
                "overrides": overrides,
                "budget_missed": misses,
                "tracking_error": None,
                "tracking_uri": resolved["tracking"].get("uri"),
            }
            results.write_results(folder, rows, header)
            if survey is not None:
                results.write_survey(survey)
            tracker.rows(rows, folder)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracker.finish(status)
        if tracker.failure is not None:
            results.write_results(folder, rows, {**header, "tracking_error": tracker.failure})
            if survey is not None:
                results.write_survey(survey)
            report.line(f"{tracker.failure}. The results are complete in {_shown(folder)}.")
        if survey is None:
            plain = results.rows_of(folder)
            for line in ["", *table(plain), "", *remarks(plain), *misses]:
                report.line(line)
            report.line(_written(folder, "", header["tracking_uri"]))
    return TRACKING_FAILED if tracker.failure is not None else BUDGET_MISSED if misses else DONE


def build_plan(resolved: dict[str, Any], chosen: dict[str, str]) -> Any:
    """Build every object of an experiment from a resolved config, before any work.

    Args:
        resolved: The composed config as plain dicts and lists.
        chosen: Hydra's choices: which file each group came from.
    """
    from src.contracts import InputError
    from src.experiment import Part, Plan
    from src.methods.chain import Chain
    from src.training.recipe import Compute

    if isinstance(resolved["seed"], bool) or not isinstance(resolved["seed"], int) or resolved["seed"] < 0:
        raise InputError(f"seed must be a whole number from 0, and is {resolved['seed']!r}")
    model_config = dict(resolved["model"])
    weights = model_config.pop("weights", None)
    training_config = dict(resolved["training"])
    if weights and not Path(weights).expanduser().is_file():
        raise InputError(f"model.weights: there is no file {weights}")
    compute_config = {key: training_config.pop(key) for key in ("device", "precision", "threads")}
    compute = _instantiate({"training": compute_config}, "training", Compute.resolve)
    data = Part(_instantiate(resolved, "data"), resolved["data"])
    model = Part(_instantiate({"model": {**model_config, "_partial_": True}}, "model"), model_config)
    training = Part(_instantiate({"training": training_config}, "training"), training_config)
    method = _instantiate(resolved, "method")
    if isinstance(method, Chain):
        variant = method.name
        steps = {name: Part(step, resolved["method"]["steps"][name]) for name, step in method.steps.items()}
    else:
        variant = chosen["method"]
        steps = {variant: Part(method, resolved["method"])}
    targets = {
        name: Part(_instantiate(resolved["target"], name, key=f"target.{name}"), config)
        for name, config in resolved["target"].items()
    }
    return Plan(
        name=chosen.get("experiment") or "run",
        variant=variant,
        seed=resolved["seed"],
        data=data,
        model=model,
        model_name=chosen["model"] if chosen["model"] != "custom" else model_config["_target_"].rpartition(".")[2],
        weights=Path(weights).expanduser() if weights else None,
        training=training,
        compute=compute,
        steps=steps,
        targets=targets,
    )


def _instantiate(config: dict[str, Any], name: str, call: Any = None, key: str | None = None) -> Any:
    """Instantiate ``config[name]``; a mistake surfaces with the full key in front."""
    from hydra.utils import instantiate

    from src.contracts import InputError

    check_types(config[name], key or name)
    try:
        return call(**config[name]) if call is not None else instantiate(config[name], _convert_="all")
    except (ValueError, TypeError) as error:
        raise InputError(f"{key or name}.{error}") from error
    except Exception as error:
        from hydra.errors import InstantiationException

        if not isinstance(error, InstantiationException):
            raise
        raise InputError(command.explain_instantiation(error, key or name)) from error


def check_types(config: Any, key: str) -> None:
    """Compare plain values with the annotations of the constructors that will get them.

    Raises:
        InputError: A number, word or truth value stands where another is wanted; the full key is named.
    """
    import typing

    from hydra.utils import get_object

    from src.contracts import InputError

    if isinstance(config, list):
        for at, value in enumerate(config):
            check_types(value, f"{key}.{at}")
    if not isinstance(config, dict):
        return
    for name, value in config.items():
        check_types(value, f"{key}.{name}")
    target = config.get("_target_")
    if not isinstance(target, str) or not target.startswith("src."):
        return
    try:
        hints = typing.get_type_hints(get_object(target).__init__)
    except Exception:  # what cannot be found or read is reported when it is instantiated
        return
    spoken = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    accepted = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}
    for name, hint in hints.items():
        value = config.get(name)
        if hint in spoken and name in config:
            fits = isinstance(value, accepted[hint]) and (hint is bool or not isinstance(value, bool))
            if not fits:
                raise InputError(f"{key}.{name} must be {spoken[hint]}, and is {value!r}")


def _tracker(resolved: dict[str, Any], again: str, folder: Path, survey: Path | None) -> Any:
    from hydra.utils import instantiate

    make = instantiate(resolved["tracking"], _convert_="all")
    return make(config=resolved, command=again, folder=folder, survey=survey) if callable(make) else make


def _conclude_survey(folder: Path) -> int:
    """Print a survey's table, its failures and what to do next; return its exit code."""
    from src import results
    from src.console import remarks, table

    survey = results.write_survey(folder)
    reasons = list(dict.fromkeys(failure["reason"] for failure in survey["failed"]))
    all_input = all(failure["kind"] == "input" for failure in survey["failed"])
    if not survey["rows"]:
        for reason in reasons:
            print(reason, file=sys.stderr)
        return WRONG_INPUT if reasons and all_input else FAILED
    for line in ["", *table(survey["rows"]), "", *remarks(survey["rows"])]:
        print(line)
    for member, misses in survey["budget_missed"].items():
        print(f"Budget missed by {member}: {'; '.join(misses)}")
    for failure in survey["failed"]:
        print(f"Failed: {failure['member']}: {failure['reason']}")
    print(_written(folder, f" (survey.json, {len(survey['members'])} runs)", survey["tracking_uri"]))
    if survey["failed"]:
        return FAILED
    if survey["tracking_failed"]:
        return TRACKING_FAILED
    return BUDGET_MISSED if survey["budget_missed"] else DONE


def _discard(folder: Path) -> None:
    """Remove a run's folder in which nothing was made."""
    import shutil

    made = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.log", "config.yaml")]
    if not made:
        shutil.rmtree(folder, ignore_errors=True)


def _quoted(override: str) -> str:
    import shlex

    return shlex.quote(override)


def _shown(folder: Path) -> str:
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def _written(folder: Path, what: str, uri: str | None) -> str:
    """Where the results are, and how to compare them with others."""
    if uri is None:
        return f"Written: {_shown(folder)}{what}"
    page = uri if uri.startswith("http") else f"{Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {uri}"
    return f"Written: {_shown(folder)}{what}    Compare: {page.removeprefix(f'{Path.cwd()}/')}"


if __name__ == "__main__":
    sys.exit(main())
