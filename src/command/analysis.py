"""A sensitivity analysis from its job to its table, picture and record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.display.terminal import Console, only_ours

if TYPE_CHECKING:
    from src.command.jobs import Job


def analyse_job(job: Job) -> None:
    """Change each layer of the job's network alone, and write and show what its accuracy becomes.

    Raises:
        InputError: Something that the user gave does not fit.
    """
    with only_ours(job.folder / "run.log", verbose=job.resolved["verbose"]) as terminal:
        # Libraries are imported here, so that what they print goes to the log.
        from src.command.composition import build, build_plan
        from src.experiment.sensitivity import Sweep, analyse
        from src.stages.store import StageStore

        sweep = build(job.resolved, "sensitivity", Sweep)
        plan = replace(build_plan(job.resolved, job.choices), steps={}, variant="baseline")
        console = Console(terminal, "")
        store = StageStore(Path(job.resolved["artifacts"]), say=console.line)
        analyse(plan, sweep, store=store, console=console, folder=job.folder)
