"""Plans composed from conf/, as the command composes them, on tiny drawn images."""

from __future__ import annotations

import io
from pathlib import Path

from src.composition import build_plan, composed
from src.console import Report
from src.experiment import Experiment
from src.plan import Plan
from src.stages.store import StageStore
from src.tracking.off import Off

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


def experiment(made: Plan, folder: Path) -> Experiment:
    """An experiment whose stages and files lie in ``folder``; call ``run`` for its rows."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    store = StageStore(folder / "artifacts")
    return Experiment(made, store=store, tracker=Off(), report=Report(io.StringIO(), ""), folder=folder / "run")
