"""One trial of a search: its chain, fine-tuned for growing lengths, measured on its file and on validation data."""

from __future__ import annotations

import copy
import io
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState

from src.contracts import DataSplits, TrackedRun, first_line
from src.display.terminal import Console
from src.experiment.files import FileMaker
from src.experiment.making import RECIPE, StageMaker
from src.experiment.plan import Plan
from src.stages.store import StageStore
from src.study.attributes import (
    ACCURACIES,
    POINT,
    STOPPED,
    TOTAL_SECONDS,
    VALUES,
    WORK_SECONDS,
    accuracies_of,
    values_of,
)
from src.study.claims import Claims, fail, finished_trials
from src.study.judging import ACCURACY, SEARCHED, Judge, Stopping
from src.study.space import Point, Space

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of a study.

    Attributes:
        space: The space that trials choose from.
        judge: Compares what trials measured.
        stopping: Estimates how much accuracy longer fine-tuning can add.
        lengths: Shares of the fine-tuning after which a trial is measured, ascending; the last one is 1.
        plan_of: Makes the plan of a point, given the trial's number and such a share.
        splits: The data.
        store: Where stages are found again, shared by all workers.
        folder: Folder of the search, which uses the stages.
        target: Name of the target whose file is measured.
    """

    space: Space
    judge: Judge
    stopping: Stopping
    lengths: Sequence[float]
    plan_of: Callable[[Point, int, float], Plan]
    splits: DataSplits
    store: StageStore
    folder: Path
    target: str

    def run_trials(self, study: optuna.Study, claims: Claims, after_each: Callable[[], None]) -> None:
        """Run one trial after another until there is none for this worker; call ``after_each`` after each."""
        while True:
            started = time.perf_counter()
            with claims.next_trial() as trial:
                if trial is not None:
                    self._run(study, trial, started)
            if trial is None:
                return
            after_each()

    def measure(self, plan: Plan) -> dict[str, float]:
        """Make the model of ``plan`` and measure its file without the test set.

        Returns:
            The measured columns by name.

        Raises:
            ValueError: A column that is an objective or has a limit cannot be measured for the target.
        """
        console = Console(io.StringIO(), "")
        maker = StageMaker(
            plan,
            self.splits,
            store=self.store,
            tracked=TrackedRun(),
            console=console,
            folder=self.folder,
        )
        files = FileMaker(plan, self.splits, store=self.store, console=console, folder=self.folder)
        columns = files.measure_candidate(maker.make()[-1], timed=self.judge.timed)[self.target]
        unknown = [column for column in self.judge.required if columns.get(column) is None]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} cannot be measured for target {self.target}")
        return {name: float(columns[name]) for name in SEARCHED if columns.get(name) is not None}

    def _run(self, study: optuna.Study, trial: Trial, started: float) -> None:
        """Run a trial and tell the study its values; a trial that fails is a result."""
        try:
            point = self.space.choose(trial)
            trial.set_user_attr(POINT, point)
            values, work_seconds = self._measure_at_lengths(study, trial, point)
            trial.set_user_attr(VALUES, values)
            for key, violation in self.judge.violations(values).items():
                trial.set_constraint(key, violation)
            objectives = [values[column] for column in self.judge.objectives]
            if not all(map(math.isfinite, objectives)):
                raise ValueError(f"{', '.join(self.judge.objectives)} were measured as {objectives}")
            trial.set_user_attr(WORK_SECONDS, work_seconds)
            trial.set_user_attr(TOTAL_SECONDS, time.perf_counter() - started)
            study.tell(trial, objectives)
        except (OSError, StorageInternalError):  # a full disk says nothing of the trial, which another worker resumes
            raise
        except Exception as error:
            log.exception("trial %d failed", trial.number)
            fail(study, trial, f"{type(error).__name__}: {first_line(error)}")

    def _measure_at_lengths(self, study: optuna.Study, trial: Trial, point: Point) -> tuple[dict[str, float], float]:
        """Fine-tune and measure at each length until the trial is stopped.

        Returns:
            What was measured last, and the seconds that it took to make and measure the models.
        """
        values: dict[str, float] = {}
        accuracies: dict[float, float] = {}
        work_seconds = 0.0
        longest = self.plan_of(point, trial.number, self.lengths[-1])
        for length in self.lengths:
            last = length == self.lengths[-1]
            plan = longest if last else self.plan_of(point, trial.number, length)
            if not last and _step_configs(plan) == _step_configs(longest):
                continue  # no step of this chain is fine-tuned for longer later
            started = time.perf_counter()
            values = self.measure(plan)
            work_seconds += time.perf_counter() - started
            accuracies[length] = values[ACCURACY]
            reason = None if last else self._stop_reason(study, values, length)
            if reason is not None:
                trial.set_user_attr(STOPPED, reason)
                break
        trial.set_user_attr(ACCURACIES, {str(length): accuracy for length, accuracy in accuracies.items()})
        return values, work_seconds

    def _stop_reason(self, study: optuna.Study, values: Mapping[str, float], length: float) -> str | None:
        """Why the trial need not be fine-tuned beyond ``length``; None if it must."""
        measured = [trial for trial in finished_trials(study) if trial.state is TrialState.COMPLETE]
        gain = self.stopping.possible_gain(length, [accuracies_of(trial) for trial in measured])
        completed = [values_of(trial) for trial in measured if STOPPED not in trial.user_attrs]
        return self.judge.stop_reason(values, gain, [each for each in completed if self.judge.within_budget(each)])


def shortened(config: Mapping[str, Any], length: float) -> dict[str, Any]:
    """A copy of a resolved config whose steps are fine-tuned for a share of their epochs, at least for one.

    Args:
        config: The resolved config of an experiment.
        length: The share.
    """
    changed = copy.deepcopy(dict(config))
    for recipe in _recipes(changed["method"]):
        recipe["epochs"] = max(1, round(recipe["epochs"] * length))
    return changed


def _step_configs(plan: Plan) -> list[Mapping[str, Any]]:
    return [part.config for part in plan.steps.values()]


def _recipes(config: Any) -> list[dict[str, Any]]:
    if isinstance(config, dict):
        own = [config] if config.get("_target_") == RECIPE else []
        return own + [recipe for value in config.values() for recipe in _recipes(value)]
    return []
