"""A whole experiment: its stages made, its files shipped, each said to a person and to the tracked run."""

from __future__ import annotations

import time
from pathlib import Path

from src.contracts import Console, DataSplits, Refused, Row, TrackedRun
from src.experiment.files import FileMaker
from src.experiment.making import Made, StageMaker
from src.experiment.plan import Plan
from src.methods.chain import undone
from src.stages.store import StageStore


class Experiment:
    """Runs a plan; every stage is found again if it was made before.

    Args:
        plan: What to do.
        splits: The data, as ``prepare`` loaded it.
        store: Where stages live.
        tracked: The open run.
        console: Tells a person.
        folder: Folder of the run; exported files are copied into it.

    Attributes:
        made: The result of each stage, the baseline's first; empty before ``run``.
    """

    def __init__(
        self, plan: Plan, splits: DataSplits, *, store: StageStore, tracked: TrackedRun, console: Console, folder: Path
    ) -> None:
        self.plan, self.splits, self.console = plan, splits, console
        self.stages = StageMaker(plan, splits, store=store, tracked=tracked, console=console, folder=folder)
        self.made: list[Made] = []
        self.files = FileMaker(plan, splits, store=store, console=console, folder=folder)

    def run(self) -> tuple[list[Row], list[Refused]]:
        """Make, export, measure and time.

        Returns:
            A row for each (variant, target), the baseline's first; and the variants that a target cannot hold.

        Raises:
            InputError: Something that the user gave does not fit; nothing was trained for it.
        """
        plan = self.plan
        self.console.begin(plan.name, plan.variant, plan.model_name, self.splits, plan.seed)
        for remark in undone({name: step.value for name, step in plan.steps.items()}):
            self.console.line(remark)
        made = self.made = self.stages.make()
        started = time.perf_counter()
        variants = {"baseline": made[0]}
        if plan.steps:
            variants[plan.variant] = made[-1]
        rows, refused, found = self.files.ship(variants)
        self.console.end(time.perf_counter() - started, found)
        return rows, refused
