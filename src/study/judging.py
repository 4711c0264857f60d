"""What counts in a search: objectives, limits, who beats whom, and when a trial is not worth its training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from src.results import Budget

ACCURACY = "accuracy_validation"
# What is measured of a trial's file without the test set.
COLUMNS = (
    ACCURACY,
    "size_bytes",
    "size_gzip_bytes",
    "latency_ms_p50",
    "latency_ms_p95",
    "parameters",
    "nonzero_parameters",
    "macs",
    "peak_activation_bytes",
    "energy_uj_estimate",
    "bits_per_weight",
)
LIMITS = {
    "size_bytes": "size_bytes",
    "size_gzip_bytes": "size_gzip_bytes",
    "latency_ms": "latency_ms_p50",
    "energy_uj": "energy_uj_estimate",
}
Values = Mapping[str, float]


@dataclass(frozen=True)
class Judge:
    """Compares what was measured.

    Attributes:
        objectives: Columns; accuracies are to be large, all others small.
        budget: What must hold; the accuracy against the baseline's.
        baseline: The baseline's accuracy on validation data, of its exported file.
    """

    objectives: tuple[str, ...]
    budget: Budget
    baseline: float

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ValueError("objectives is empty: at least one column is needed")
        for column in self.objectives:
            if column not in COLUMNS:
                raise ValueError(f"objectives: there is no column {column}; there are {', '.join(COLUMNS)}")

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """``maximize`` or ``minimize`` for each objective."""
        return ["maximize" if column == ACCURACY else "minimize" for column in self.objectives]

    @property
    def columns(self) -> list[str]:
        """All that counts beside accuracy: objectives and what has a limit."""
        limited = [column for name, column in LIMITS.items() if getattr(self.budget, name) is not None]
        return list(dict.fromkeys([*self.objectives, *limited]))

    @property
    def timed(self) -> bool:
        """Whether latency counts, and so must be measured."""
        return any(column.startswith("latency") for column in self.columns)

    def violations(self, values: Values) -> dict[str, float]:
        """By limit how far it is missed, 0 at the limit: of errors, for accuracy; see ``_missed``."""
        found = {}
        if self.budget.accuracy_drop is not None:
            found["accuracy_drop"] = _missed(1 - values[ACCURACY], 1 - self.baseline + self.budget.accuracy_drop)
        for name, column in LIMITS.items():
            limit = getattr(self.budget, name)
            if limit is not None:
                found[name] = _missed(values[column], limit)
        return found

    def keeps(self, values: Values) -> bool:
        """Whether everything is within the budget."""
        return all(violation <= 0 for violation in self.violations(values).values())

    def missed(self, values: Values) -> str:
        """The limits that are missed, in words."""
        said = {"accuracy_drop": f"accuracy fell by {100 * (self.baseline - values[ACCURACY]):.2f} points"}
        for name, column in LIMITS.items():
            if getattr(self.budget, name) is not None:
                said[name] = f"{column} is {values[column]:,.4g} of at most {getattr(self.budget, name):,.4g}"
        return ", ".join(said[name] for name, violation in self.violations(values).items() if violation > 0)

    def beats(self, values: Values, other: Values, columns: Sequence[str] = ()) -> bool:
        """Whether no column (the objectives', unless given) is worse, and one is better."""
        signs = [(column, -1 if column == ACCURACY else 1) for column in columns or self.objectives]
        ours, theirs = ([sign * each[column] for column, sign in signs] for each in (values, other))
        return all(a <= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs

    def front(self, trials: Mapping[int, Values]) -> list[int]:
        """Those that no other beats in the objectives and in accuracy, the best by the first objective first.

        Of trials that measured the same the first one stands for all.
        """
        distinct: dict[tuple[float, ...], int] = {}
        for number, values in sorted(trials.items()):
            distinct.setdefault(self.order(values), number)
        points = np.array(list(distinct))
        beaten = [((points <= point).all(1) & (points < point).any(1)).any() for point in points]
        return [
            number for _, number in sorted((p, n) for (p, n), b in zip(distinct.items(), beaten, strict=True) if not b)
        ]

    def order(self, values: Values) -> tuple[float, ...]:
        """All that counts, less being better: the objectives, then accuracy."""
        return tuple(
            -values[column] if column == ACCURACY else values[column] for column in (*self.objectives, ACCURACY)
        )

    def not_worth(self, values: Values, gain: float, kept: Sequence[Values]) -> str | None:
        """Why a trial measured after a short fine-tuning need not be trained longer, or None.

        Args:
            values: Measured after the short one.
            gain: Accuracy that a longer one may add at best, a share.
            kept: What trials within the budget reached.
        """
        hoped = {**values, ACCURACY: min(1.0, values[ACCURACY] + gain)}
        if not self.keeps(hoped):
            even = (
                f" even with {100 * gain:.2f} points more" if self.violations(hoped).get("accuracy_drop", 0) > 0 else ""
            )
            return f"out of budget: {self.missed(hoped)}{even}"
        columns = self.objectives if len(self.objectives) > 1 else (*self.objectives, ACCURACY)
        if any(self.beats(other, hoped, columns) for other in kept):
            return "beaten: another trial within the budget is better in everything that counts"
        return None


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Learns from trials trained to the end how much longer fine-tuning gains.

    Attributes:
        observed: So many of them before any trial is stopped.
        margin: The largest gain seen is multiplied by it.
    """

    observed: int
    margin: float

    def __post_init__(self) -> None:
        if self.observed < 1 or self.margin < 0:
            raise ValueError("observed must be at least 1, and margin at least 0")

    def gain(self, length: float, accuracies: Sequence[Mapping[float, float]]) -> float:
        """What fine-tuning beyond ``length`` may add to the accuracy; infinite where too little is known.

        Args:
            length: Share of the whole fine-tuning.
            accuracies: For each finished trial by share.
        """
        gains = [each[1.0] - each[length] for each in accuracies if length in each and 1.0 in each]
        return self.margin * max(0.0, *gains) if len(gains) >= self.observed else float("inf")


def _missed(value: float, limit: float) -> float:
    """How far a value is above its limit: the logarithm of their ratio; all below a quarter of it count alike."""
    missed = math.log(max(value / limit, 0.25)) if limit > 0 else value - limit
    return round(missed, 9)  # floats that should be equal
