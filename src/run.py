"""Run one experiment, or a survey of many: ``python -m src.run +experiment=cifar_prune``."""

from __future__ import annotations

import sys

from src.command import exits, help

USAGE = """\
python -m src.run +experiment=NAME [key=value ...]         one experiment, or the survey that it describes
python -m src.run -m +experiment=NAME seed=0,1,2           every combination; the table says mean and spread
python -m src.run data=D model=M method=C target=[T1,T2]   without an experiment file

--plan    say what is found again, what is trained and for how long, the disk and the smallest bytes; do nothing
--json    the rows as JSON lines on stdout, everything else on stderr

seed=0  refresh=true (make found stages anew)  verbose=true (show what libraries print)
budget.accuracy_drop=0.005  budget.size_bytes=50000  budget.latency_ms=0.1   (exit 4 if missed)
"""
GROUPS = ("experiment", "method", "data", "model", "training", "target", "board", "tracking")


def main() -> int:
    return exits.run_command(_run)


def _run() -> int:
    if help.wanted():
        print(help.help_text(USAGE, GROUPS))
        return exits.DONE
    from src.command.options import taken
    from src.command.streams import stdout_alone

    plan, rows = taken("--plan"), taken("--json")
    from src.command.survey import plan_experiments, run_experiments

    if plan:
        return plan_experiments()
    if not rows:
        return run_experiments()
    with stdout_alone() as stdout:
        return run_experiments(stdout)


if __name__ == "__main__":
    sys.exit(main())
