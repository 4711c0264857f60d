"""One trial of a search: its chain at growing lengths of fine-tuning, measured on its file and on validation data."""

from __future__ import annotations

import copy
import io
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState

from src.console import Report
from src.contracts import DataSplits, first_line
from src.experiment import Experiment
from src.plan import Plan
from src.stages.store import StageStore
from src.study.claims import Claims, fail, finished
from src.study.judging import COLUMNS, Judge, Stopping
from src.study.space import Point, Space
from src.tracking.off import Off

log = logging.getLogger(__name__)
RECIPE = "src.training.recipe.Recipe"
# Of a trial: what it chose, measured and took.
POINT, VALUES, ACCURACIES, STOPPED, BUSY, SPENT = "point", "values", "accuracies", "stopped", "busy_s", "spent_s"
PlanOf = Callable[[Point, int, float], Plan]


@dataclass(frozen=True)
class Trials:
    """Runs trials until there is none left.

    Attributes:
        space: What a trial chooses.
        judge: What counts.
        stopping: When a trial is given up early.
        lengths: Shares of the fine-tuning at which a trial is measured, ascending, the last one 1.
        plan_of: The plan of a point, a trial's number and such a share.
        splits: The data.
        store: Where stages are, shared by all workers.
        target: The name of the one that counts.
    """

    space: Space
    judge: Judge
    stopping: Stopping
    lengths: Sequence[float]
    plan_of: PlanOf
    splits: DataSplits
    store: StageStore
    target: str

    def work(self, study: optuna.Study, claims: Claims, tell: Callable[[], None]) -> None:
        """Take trials and run them; ``tell`` is called after each."""
        while True:
            started = time.perf_counter()
            with claims.next() as trial:
                if trial is not None:
                    self._run(study, trial, started)
            if trial is None:
                return
            tell()

    def _run(self, study: optuna.Study, trial: Trial, started: float) -> None:
        busy = 0.0
        try:
            point = self.space.choose(trial)
            trial.set_user_attr(POINT, point)
            values: Mapping[str, float] = {}
            accuracies: dict[float, float] = {}
            whole = self.plan_of(point, trial.number, self.lengths[-1])
            for length in self.lengths:
                last = length == self.lengths[-1]
                plan = whole if last else self.plan_of(point, trial.number, length)
                if not last and _steps(plan) == _steps(whole):
                    continue  # nothing is trained longer later
                begun = time.perf_counter()
                values = self.measure(plan)
                busy += time.perf_counter() - begun
                accuracies[length] = values["accuracy_validation"]
                why = self._not_worth(study, values, length)
                if why is not None:
                    trial.set_user_attr(STOPPED, why)
                    break
            trial.set_user_attr(VALUES, dict(values))
            trial.set_user_attr(ACCURACIES, {str(length): accuracy for length, accuracy in accuracies.items()})
            for name, violation in self.judge.violations(values).items():
                trial.set_constraint(name, violation)
            objectives = [values[column] for column in self.judge.objectives]
            if not all(map(math.isfinite, objectives)):
                raise ValueError(f"{', '.join(self.judge.objectives)} came to {objectives}")
            trial.set_user_attr(BUSY, busy)
            trial.set_user_attr(SPENT, time.perf_counter() - started)
            study.tell(trial, objectives)
        except (OSError, StorageInternalError):  # a full disk is no property of the trial: it is taken up again
            raise
        except Exception as error:  # a trial that fails is a result; the search goes on
            log.exception("trial %d failed", trial.number)
            fail(study, trial, f"{type(error).__name__}: {first_line(error)}")

    def measure(self, plan: Plan) -> dict[str, float]:
        """Make what ``plan`` says and measure the file for the target that counts, test data aside."""
        report = Report(io.StringIO(), "")
        experiment = Experiment(plan, store=self.store, tracker=Off(), report=report, folder=self.store.root)
        columns = experiment.candidate(self.splits, timed=self.judge.timed)[self.target]
        unknown = [column for column in self.judge.columns if columns.get(column) is None]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} cannot be measured for target {self.target}")
        return {name: float(columns[name]) for name in COLUMNS if columns.get(name) is not None}

    def _not_worth(self, study: optuna.Study, values: Mapping[str, float], length: float) -> str | None:
        if length == self.lengths[-1]:
            return None
        others = [trial for trial in finished(study) if trial.state is TrialState.COMPLETE]
        gain = self.stopping.gain(length, [accuracies_of(trial) for trial in others])
        whole = [values_of(trial) for trial in others if STOPPED not in trial.user_attrs]
        return self.judge.not_worth(values, gain, [each for each in whole if self.judge.keeps(each)])


def values_of(trial: FrozenTrial) -> dict[str, float]:
    """What was measured of a finished trial."""
    return dict(trial.user_attrs[VALUES])


def accuracies_of(trial: FrozenTrial) -> dict[float, float]:
    """A finished trial's accuracy on validation data at each length of fine-tuning."""
    return {float(length): accuracy for length, accuracy in trial.user_attrs[ACCURACIES].items()}


def _steps(plan: Plan) -> list[Mapping[str, Any]]:
    return [part.config for part in plan.steps.values()]


def shortened(config: Mapping[str, Any], length: float) -> dict[str, Any]:
    """A resolved config whose steps are fine-tuned for a share ``length`` of their epochs, at least one."""
    changed = copy.deepcopy(dict(config))
    for recipe in _recipes(changed["method"]):
        recipe["epochs"] = max(1, round(recipe["epochs"] * length))
    return changed


def _recipes(config: Any) -> list[dict[str, Any]]:
    if isinstance(config, dict):
        own = [config] if config.get("_target_") == RECIPE else []
        return own + [recipe for value in config.values() for recipe in _recipes(value)]
    return []
