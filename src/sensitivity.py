"""Which layer bears how much: ``python -m src.sensitivity +experiment=cifar_prune``."""

from __future__ import annotations

import sys

from src.command import exits, help

USAGE = """\
python -m src.sensitivity +experiment=NAME [key=value ...]    the experiment's network, each layer changed alone

Accuracy on validation data against sparsity, bits and clusters of one layer at a time, and the noise that INT8 makes: a
table, sensitivity.png, and sensitivity.json, which method.distribution (BySensitivity) and method.bits
(MeasuredSensitivity) take.

sensitivity.sparsity=[0.5,0.9]  sensitivity.bits=[2,4,8]  sensitivity.clusters=[4,16]  sensitivity.images=2000
"""


def main() -> int:
    return exits.run_command(_run)


def _run() -> int:
    if help.wanted():
        print(help.help_text(USAGE, ("experiment", "data", "model", "training")))
        return exits.DONE
    from src.command.analysis import analyse_job
    from src.command.jobs import run_job

    sys.argv.append("hydra.mode=RUN")  # of a survey only data, model and training are used
    return run_job("sensitivity", analyse_job)


if __name__ == "__main__":
    sys.exit(main())
