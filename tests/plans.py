"""Plans composed from conf/, as the command composes them, on tiny drawn images."""

from __future__ import annotations

import io
from pathlib import Path

from src.command.composition import build_plan, composed
from src.contracts import Refused, Row, TrackedRun
from src.display.terminal import Console
from src.experiment.making import prepare
from src.experiment.plan import Plan
from src.experiment.runner import Experiment
from src.stages.store import StageStore

TINY = [
    "data=shapes",
    "data.train_images=300",
    "data.test_images=60",
    "data.side=16",
    "data.calibration_images=40",
    "training.epochs=1",
    "training.batch_size=50",
    "training.precision=float32",
    "training.device=cpu",
    "training.threads=1",
]


def plan(*overrides: str) -> Plan:
    """The plan of tiny data with ``overrides`` on top."""
    return build_plan(*composed([*TINY, *overrides]))


class Tried:
    """An experiment in a folder of its own; its data is loaded when it runs.

    Attributes:
        refused: What ``run`` found no target to hold.
    """

    def __init__(self, made: Plan, folder: Path) -> None:
        self.plan, self.folder = made, folder
        self.store = StageStore(folder / "artifacts")
        self.refused: list[Refused] = []

    def run(self) -> list[Row]:
        """The rows, the baseline's first."""
        (self.folder / "run").mkdir(parents=True, exist_ok=True)
        whole = Experiment(
            self.plan,
            prepare(self.plan),
            store=self.store,
            tracked=TrackedRun(),
            console=Console(io.StringIO(), ""),
            folder=self.folder / "run",
        )
        rows, self.refused = whole.run()
        return rows


def experiment(made: Plan, folder: Path) -> Tried:
    """An experiment whose stages and files lie in ``folder``; call ``run`` for its rows."""
    return Tried(made, folder)
