"""Run one experiment, or a survey of many: ``python -m src.run +experiment=cifar_prune``."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
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
GROUPS = ("experiment", "method", "data", "model", "training", "target", "board", "tracking")


def main() -> int:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(command.help_text(USAGE, GROUPS))
        return DONE
    return command.run_command(_hydra)


def _hydra() -> int:
    """Let Hydra compose and call ``_member`` for each job; return the exit code of them together."""
    import hydra

    from src.composition import register_resolvers
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

    try:
        task()
    except KeyboardInterrupt:
        if Survey.folder is not None and Survey.folder.is_dir():
            _finish_tracking(Survey.folder, "KILLED")
        raise
    if Survey.folder is not None and Survey.folder.is_dir():
        return _conclude_survey(Survey.folder)
    if errors:
        raise errors[0]
    return max(codes, default=DONE)


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
            results.discard(folder)
        if survey is not None:
            kind = "input" if code == WRONG_INPUT else "error"
            results.write_failure(folder, overrides=list(hydra_config.overrides.task), reason=line, kind=kind)
            results.write_survey(survey)
            member = f"{hydra_config.job.num + 1}/{os.environ.get('DNNC_SURVEY_MEMBERS', '?')}"
            print(f"[{member}] failed: {line}", file=sys.stderr)
        raise


def _experiment(config: DictConfig, folder: Path, survey: Path | None) -> int:
    """Run it, print its table; return the exit code."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from src.console import only_ours
    from src.survey import MEMBERS, STARTED

    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    hydra_config = HydraConfig.get()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(resolved)))
    overrides = list(hydra_config.overrides.task)
    again = " ".join(["python -m src.run", *map(shlex.quote, overrides), *(["hydra.mode=RUN"] if survey else [])])
    prefix = f"[{hydra_config.job.num + 1}/{os.environ.get(MEMBERS, '?')}] " if survey else ""
    refresh_before = float(os.environ.get(STARTED) or time.time()) if resolved["refresh"] else None
    with only_ours(folder / "run.log", verbose=resolved["verbose"]) as terminal:
        from src import results
        from src.console import Report, refusals, shown
        from src.execution import execute

        report = Report(terminal, prefix)
        done = execute(
            resolved,
            dict(hydra_config.runtime.choices),
            folder,
            report=report,
            command=again,
            overrides=overrides,
            parent=survey,
            refresh_before=refresh_before,
        )
        if done.tracking_failure is not None:
            report.line(f"{done.tracking_failure}. The results are complete in {shown(folder)}.")
        if survey is not None:
            results.write_survey(survey)
        else:
            written = _written(folder, "", resolved["tracking"].get("uri"))
            _show(report.line, results.rows_of(folder), [*refusals(done.refused), *done.misses], written)
    return done.code


def _conclude_survey(folder: Path) -> int:
    """Print a survey's table, its failures and what to do next; return its exit code."""
    from src import results
    from src.console import refusals

    survey = results.write_survey(folder)
    reasons = list(dict.fromkeys(failure["reason"] for failure in survey["failed"]))
    all_input = all(failure["kind"] == "input" for failure in survey["failed"])
    tracking_failure = _finish_tracking(folder, "FAILED" if survey["failed"] else "FINISHED")
    if not survey["rows"]:
        for reason in reasons:
            print(reason, file=sys.stderr)
        return WRONG_INPUT if reasons and all_input else FAILED
    notes = refusals(survey["not_exportable"])
    notes += [f"Budget missed by {member}: {'; '.join(misses)}" for member, misses in survey["budget_missed"].items()]
    notes += [f"Failed: {failure['member']}: {failure['reason']}" for failure in survey["failed"]]
    notes += [tracking_failure] if tracking_failure else []
    written = _written(folder, f" (survey.json, {len(survey['members'])} runs)", survey["tracking_uri"])
    _show(print, survey["rows"], notes, written)
    if survey["failed"]:
        return FAILED
    if survey["tracking_failed"] or tracking_failure:
        return TRACKING_FAILED
    return BUDGET_MISSED if survey["budget_missed"] else DONE


def _finish_tracking(folder: Path, status: str) -> str | None:
    """Close the survey's run in the tracking store; return what went wrong there."""
    from src.survey import PARENT

    if not (folder / PARENT).exists():
        return None
    from src import results
    from src.console import only_ours, shown
    from src.contracts import TrackingError
    from src.tracking.mlflow import finish_survey

    results.write_survey(folder)
    try:
        with only_ours(folder / "survey.log", verbose=False):
            finish_survey(folder, status)
    except TrackingError as error:
        return f"{error}. The results are complete in {shown(folder)}."
    return None


def _show(line: Callable[[str], None], rows: list[dict[str, Any]], notes: Sequence[str], written: str) -> None:
    """The table, what could be misread in it, what fell short, and where it all is."""
    from src.console import remarks, table

    for text in ["", *table(rows), "", *remarks(rows), *notes, written]:
        line(text)


def _written(folder: Path, what: str, uri: str | None) -> str:
    """Where the results are, and how to compare them with others."""
    from src.console import shown

    if uri is None:
        return f"Written: {shown(folder)}{what}"
    page = uri if uri.startswith("http") else f"{Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri {uri}"
    return f"Written: {shown(folder)}{what}    Compare: {page.removeprefix(f'{Path.cwd()}/')}"


if __name__ == "__main__":
    sys.exit(main())
