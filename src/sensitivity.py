"""Which layer bears how much: ``python -m src.sensitivity +experiment=cifar_prune``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from src.command import exits, help

if TYPE_CHECKING:
    from src.command.jobs import Job

USAGE = """\
python -m src.sensitivity +experiment=NAME [key=value ...]    the experiment's network, each layer changed alone

Accuracy on validation data against sparsity, bits and clusters of one layer at a time, and the noise that INT8 makes: a
table, sensitivity.png, and sensitivity.json, which method.distribution (BySensitivity) and method.bits
(MeasuredSensitivity) take.

sensitivity.sparsity=[0.5,0.9]  sensitivity.bits=[2,4,8]  sensitivity.clusters=[4,16]  sensitivity.images=2000
"""


def main() -> int:
    if help.wanted():
        print(help.help_text(USAGE, ("experiment", "data", "model", "training")))
        return exits.DONE
    return exits.run_command(_run)


def _run() -> int:
    from src.command.jobs import run_job

    sys.argv.append("hydra.mode=RUN")  # of a survey only data, model and training are used
    return run_job("sensitivity", _analyse)


def _analyse(job: Job) -> None:
    from src.display.terminal import Console, only_ours

    with only_ours(job.folder / "run.log", verbose=job.resolved["verbose"]) as terminal:
        from dataclasses import replace
        from pathlib import Path

        from src.command.composition import build, build_plan
        from src.experiment.sensitivity import Sweep, analyse
        from src.stages.store import StageStore

        sweep = build(job.resolved, "sensitivity", Sweep)
        plan = replace(build_plan(job.resolved, job.choices), steps={}, variant="baseline")
        console = Console(terminal, "")
        store = StageStore(Path(job.resolved["artifacts"]), say=console.line)
        analyse(plan, sweep, store=store, console=console, folder=job.folder)


if __name__ == "__main__":
    sys.exit(main())
