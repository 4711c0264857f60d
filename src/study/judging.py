"""How a search compares trials: objectives, limits, the Pareto front, and when to stop a trial early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from src.contracts import BY_NAME, COLUMNS, Row
from src.experiment.budget import ACCURACY_DROP, LIMITED, Budget

ACCURACY = "accuracy_validation"
# What is measured of a trial's file without the test set.
SEARCHED = tuple(column.name for column in COLUMNS if column.searched)
FAR_BELOW = 0.25  # all values below this share of a limit count alike
Direction = Literal["minimize", "maximize"]
Values = Mapping[str, float]  # measured columns by name


@dataclass(frozen=True)
class Judge:
    """Compares what was measured of trials.

    Attributes:
        objectives: Names of the columns to optimize; each column declares which of its values are better.
        budget: The limits that must hold.
        baseline: Accuracy of the baseline's exported file on validation data, a share.

    Raises:
        ValueError: There is no objective, or one that a search cannot measure.
    """

    objectives: tuple[str, ...]
    budget: Budget
    baseline: float

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ValueError("objectives is empty: at least one column is needed")
        for column in self.objectives:
            if column not in SEARCHED:
                raise ValueError(f"objectives: there is no column {column}; there are {', '.join(SEARCHED)}")

    @property
    def directions(self) -> list[Direction]:
        """Optuna's direction of each objective."""
        return ["maximize" if BY_NAME[column].direction == "higher" else "minimize" for column in self.objectives]

    @property
    def limits(self) -> dict[str, tuple[str, float]]:
        """Column and limit by the budget's key, in the columns' order; ``accuracy_drop`` is no limit of a column."""
        set_limits = self.budget.limits
        return {
            key: (column.name, set_limits[key])
            for key, column in LIMITED.items()
            if key in set_limits and key != ACCURACY_DROP
        }

    @property
    def required(self) -> list[str]:
        """The columns that every trial must have measured: the objectives, then the limited ones."""
        return list(dict.fromkeys([*self.objectives, *(column for column, _ in self.limits.values())]))

    @property
    def timed(self) -> bool:
        """Whether an objective or a limit is a latency, so that trials must be timed."""
        return any(column.startswith("latency") for column in self.required)

    def violations(self, values: Values) -> dict[str, float]:
        """How far each limit is missed, by the budget's key: at most 0 if it holds; see ``_violation``.

        ``accuracy_drop`` compares errors (1 - accuracy), so that it grows by factors as the other limits do.
        """
        found = {}
        if self.budget.accuracy_drop is not None:
            allowed_error = 1 - self.baseline + self.budget.accuracy_drop
            found[ACCURACY_DROP] = _violation(1 - values[ACCURACY], allowed_error)
        for key, (column, limit) in self.limits.items():
            found[key] = _violation(values[column], limit)
        return found

    def within_budget(self, values: Values) -> bool:
        """Whether every limit holds."""
        return all(violation <= 0 for violation in self.violations(values).values())

    def missed_limits(self, values: Values) -> str:
        """The limits that are missed, in words."""
        words = {ACCURACY_DROP: f"accuracy fell by {100 * (self.baseline - values[ACCURACY]):.2f} points"}
        for key, (column, limit) in self.limits.items():
            words[key] = f"{column} is {values[column]:,.4g} of at most {limit:,.4g}"
        return ", ".join(words[key] for key, violation in self.violations(values).items() if violation > 0)

    def dominates(self, values: Values, other: Values, columns: Sequence[str] = ()) -> bool:
        """Whether ``values`` are worse in no column and better in one; the columns are the objectives if not given."""
        compared = columns or self.objectives
        ours, theirs = ([BY_NAME[name].sign * each[name] for name in compared] for each in (values, other))
        return all(a <= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs

    def pareto_front(self, trials: Mapping[int, Values]) -> list[int]:
        """Numbers of the trials that no other dominates in objectives and accuracy, by the first objective.

        If several trials measured the same, only the first of them is on the front.
        """
        distinct: dict[tuple[float, ...], int] = {}
        for number, values in sorted(trials.items()):
            distinct.setdefault(self.sort_key(values), number)
        keys = np.array(list(distinct))
        dominated = [((keys <= key).all(1) & (keys < key).any(1)).any() for key in keys]
        return [number for (_, number), out in sorted(zip(distinct.items(), dominated, strict=True)) if not out]

    def sort_key(self, values: Values) -> tuple[float, ...]:
        """The objectives, then accuracy, each with the sign that makes less the better."""
        return tuple(BY_NAME[column].sign * values[column] for column in (*self.objectives, ACCURACY))

    def stop_reason(self, values: Values, gain: float, rivals: Sequence[Values]) -> str | None:
        """Why a trial measured after a short fine-tuning need not be trained longer; None if it must.

        Args:
            values: Measured after the short fine-tuning.
            gain: The largest accuracy that longer fine-tuning may add, a share.
            rivals: What completed trials within the budget measured.
        """
        hoped = {**values, ACCURACY: min(1.0, values[ACCURACY] + gain)}
        if not self.within_budget(hoped):
            gained = ""
            if self.violations(hoped).get(ACCURACY_DROP, 0) > 0:
                gained = f" even with {100 * gain:.2f} points more"
            return f"out of budget: {self.missed_limits(hoped)}{gained}"
        columns = self.objectives if len(self.objectives) > 1 else (*self.objectives, ACCURACY)
        if any(self.dominates(rival, hoped, columns) for rival in rivals):
            return "beaten: another trial within the budget is better in everything that counts"
        return None


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Estimates from completed trials how much accuracy longer fine-tuning can add.

    Attributes:
        observed: Number of completed trials that are needed before any trial is stopped.
        margin: Factor on the largest gain seen so far.

    Raises:
        ValueError: ``observed`` is less than 1, or ``margin`` less than 0.
    """

    observed: int
    margin: float

    def __post_init__(self) -> None:
        if self.observed < 1 or self.margin < 0:
            raise ValueError("observed must be at least 1, and margin at least 0")

    def possible_gain(self, length: float, accuracies: Sequence[Mapping[float, float]]) -> float:
        """The accuracy that fine-tuning beyond ``length`` may add; infinite if too few trials have shown it.

        Args:
            length: Share of the whole fine-tuning.
            accuracies: For each completed trial its accuracy by share of the fine-tuning.
        """
        gains = [each[1.0] - each[length] for each in accuracies if length in each and 1.0 in each]
        return self.margin * max(0.0, *gains) if len(gains) >= self.observed else float("inf")


def searched_values(row: Row) -> dict[str, float]:
    """The columns of a row that a search measures, without unknown ones."""
    known = {name: getattr(row, name) for name in SEARCHED}
    return {name: float(value) for name, value in known.items() if value is not None}


def _violation(value: float, limit: float) -> float:
    """How far ``value`` exceeds ``limit``, at most 0 if it does not: log(value / limit), at least log(``FAR_BELOW``).

    If the limit is not positive, it is their difference.
    """
    violation = math.log(max(value / limit, FAR_BELOW)) if limit > 0 else value - limit
    return round(violation, 9)  # makes floats equal that should be
