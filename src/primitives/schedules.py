"""How sparsity grows while a network is fine-tuned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """Decides how sparsity grows while a network is fine-tuned; an axis of pruning."""

    def __call__(self, progress: float, sparsity: float) -> float:
        """The sparsity at a moment of the fine-tuning; it never falls.

        Args:
            progress: Share of the fine-tuning that is done, in [0, 1].
            sparsity: Sparsity at the end, in [0, 1).

        Returns:
            The sparsity now, in [0, ``sparsity``].
        """
        ...


class OneShot:
    """The whole sparsity at once, before the first step.

    Paper: Han et al. 2015, arXiv:1506.02626, section 3 (one prune-retrain round).
    """

    def __call__(self, progress: float, sparsity: float) -> float:
        """The final sparsity at every moment.

        >>> OneShot()(0.0, 0.8)
        0.8
        """
        return sparsity


@dataclass(frozen=True, kw_only=True)
class _Gradual:
    """Sparsity grows between two moments, in a number of updates.

    Attributes:
        begin, end: Shares of the fine-tuning between which sparsity grows, ``0 <= begin < end <= 1``.
        updates: Number of times that the masks are computed between them, at least 1.
    """

    begin: float
    end: float
    updates: int

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(f"begin and end must hold 0 <= begin < end <= 1, and are {self.begin} and {self.end}")
        if not self.updates >= 1:
            raise ValueError(f"updates must be at least 1, and is {self.updates}")

    def at_last_update(self, progress: float) -> float:
        """The share of the way from ``begin`` to ``end`` at the last update before ``progress``, in [0, 1]."""
        share = min(max((progress - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return int(share * self.updates + 1e-9) / self.updates  # 1e-9: rounding makes no update a step late


@dataclass(frozen=True, kw_only=True)
class Cubic(_Gradual):
    """Fast growth at first, while weights are redundant, then slower: ``s (1 - (1 - t)^3)``.

    Attributes:
        begin, end: Shares of the fine-tuning between which sparsity grows, ``0 <= begin < end <= 1``.
        updates: Number of times that the masks are computed between them, at least 1.

    Paper: Zhu and Gupta 2017, arXiv:1710.01878, equation 1, with initial sparsity 0.
    """

    def __call__(self, progress: float, sparsity: float) -> float:
        """The sparsity at ``progress``; from ``end`` on it is ``sparsity``.

        >>> cubic = Cubic(begin=0.0, end=0.5, updates=2)
        >>> [cubic(progress, 0.5) for progress in (0.0, 0.25, 0.5, 1.0)]  # 0.5 (1 - 0.5^3) = 0.4375
        [0.0, 0.4375, 0.5, 0.5]
        """
        return sparsity * (1 - (1 - self.at_last_update(progress)) ** 3)


@dataclass(frozen=True, kw_only=True)
class Exponential(_Gradual):
    """Each update removes the same share of the weights that are left: ``1 - (1 - s)^t``.

    Few updates with long pauses between them are iterative pruning and retraining.

    Attributes:
        begin, end: Shares of the fine-tuning between which sparsity grows, ``0 <= begin < end <= 1``.
        updates: Number of times that the masks are computed between them, at least 1.

    Paper: Han et al. 2015, arXiv:1506.02626, section 3.4; Frankle and Carbin 2019, arXiv:1803.03635, section 2.
    """

    def __call__(self, progress: float, sparsity: float) -> float:
        """The sparsity at ``progress``; from ``end`` on it is ``sparsity``.

        >>> exponential = Exponential(begin=0.0, end=1.0, updates=2)
        >>> [exponential(progress, 0.75) for progress in (0.5, 1.0)]  # half of the weights go, then half of the rest
        [0.5, 0.75]
        """
        share = self.at_last_update(progress)
        return sparsity if share == 1 else -math.expm1(share * math.log1p(-sparsity))


@dataclass(frozen=True, kw_only=True)
class MultiStep:
    """Given shares of the final sparsity at given moments.

    Attributes:
        steps: Share of the fine-tuning, in [0, 1], to share of the final sparsity, in (0, 1]; both grow, and the last
            share is 1.
    """

    steps: Mapping[float, float]

    def __post_init__(self) -> None:
        moments = [float(moment) for moment in self.steps]
        shares = [float(share) for share in self.steps.values()]
        if not moments or shares[-1] != 1:
            raise ValueError(f"steps must end at the whole sparsity (a share of 1), and are {dict(self.steps)}")
        if sorted(set(moments)) != moments or sorted(set(shares)) != shares:
            raise ValueError(f"steps must grow, and are {dict(self.steps)}")
        if not all(0 <= moment <= 1 for moment in moments) or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"steps must lie within the fine-tuning, in [0, 1], and are {dict(self.steps)}")

    def __call__(self, progress: float, sparsity: float) -> float:
        """The sparsity at ``progress``: that of the last moment passed, 0 before the first.

        >>> steps = MultiStep(steps={0.25: 0.5, 0.5: 1.0})
        >>> [steps(progress, 0.5) for progress in (0.0, 0.25, 0.5)]
        [0.0, 0.25, 0.5]
        """
        passed = (float(share) for moment, share in self.steps.items() if float(moment) <= progress + 1e-9)
        return sparsity * max(passed, default=0.0)
