"""How sparsity grows while a network is fine-tuned."""

from __future__ import annotations

import math
from collections.abc import Mapping


class OneShot:
    """All at once, before the first step.

    Paper: Han et al. 2015, arXiv:1506.02626, section 3 (one prune-retrain round).
    """

    def __call__(self, progress: float, sparsity: float) -> float:
        """Sparsity at ``progress`` in [0, 1] of the fine-tuning."""
        return sparsity


class _Between:
    """A growth between two moments, in so many steps.

    Args:
        begin, end: Shares of the fine-tuning between which sparsity grows, ``0 <= begin < end <= 1``.
        updates: How often masks are made anew between them, at least 1.
    """

    def __init__(self, *, begin: float, end: float, updates: int) -> None:
        if not 0 <= begin < end <= 1:
            raise ValueError(f"begin and end must hold 0 <= begin < end <= 1, and are {begin} and {end}")
        if not updates >= 1:
            raise ValueError(f"updates must be at least 1, and is {updates}")
        self.begin, self.end, self.updates = begin, end, updates

    def stepped(self, progress: float) -> float:
        """The share of the way from ``begin`` to ``end``, in [0, 1], at the last update."""
        share = min(max((progress - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return int(share * self.updates + 1e-9) / self.updates  # 1e-9: no update a step late by rounding


class Cubic(_Between):
    """Fast at first, when weights are redundant, then ever slower: ``s (1 - (1 - t)^3)``.

    Args:
        begin, end: Shares of the fine-tuning between which sparsity grows, ``0 <= begin < end <= 1``.
        updates: How often masks are made anew between them, at least 1.

    Paper: Zhu and Gupta 2017, arXiv:1710.01878, equation 1, with initial sparsity 0.
    """

    def __call__(self, progress: float, sparsity: float) -> float:
        """Sparsity at ``progress`` in [0, 1] of the fine-tuning; never falls, and is ``sparsity`` from ``end`` on."""
        return sparsity * (1 - (1 - self.stepped(progress)) ** 3)


class Exponential(_Between):
    """Each update removes the same share of what is left: ``1 - (1 - s)^t``.

    With long pauses between few updates this is iterative pruning and retraining.

    Args:
        begin, end, updates: As of ``Cubic``.

    Paper: Han et al. 2015, arXiv:1506.02626, section 3.4; Frankle and Carbin 2019, arXiv:1803.03635, section 2.
    """

    def __call__(self, progress: float, sparsity: float) -> float:
        """Sparsity at ``progress`` in [0, 1] of the fine-tuning; never falls, and is ``sparsity`` from ``end`` on."""
        stepped = self.stepped(progress)
        return sparsity if stepped == 1 else -math.expm1(stepped * math.log1p(-sparsity))


class MultiStep:
    """Given shares of the sparsity at given moments.

    Args:
        steps: Share of the fine-tuning, in [0, 1], to share of the sparsity, in (0, 1]; both grow, the last share is 1.
    """

    def __init__(self, *, steps: Mapping[float, float]) -> None:
        moments = [float(moment) for moment in steps]
        shares = [float(share) for share in steps.values()]
        if not moments or shares[-1] != 1:
            raise ValueError(f"steps must end at the whole sparsity (a share of 1), and are {dict(steps)}")
        if sorted(set(moments)) != moments or sorted(set(shares)) != shares:
            raise ValueError(f"steps must grow, and are {dict(steps)}")
        if not all(0 <= moment <= 1 for moment in moments) or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"steps must lie within the fine-tuning, in [0, 1], and are {dict(steps)}")
        self.steps = dict(zip(moments, shares, strict=True))

    def __call__(self, progress: float, sparsity: float) -> float:
        """Sparsity at ``progress`` in [0, 1] of the fine-tuning."""
        return sparsity * max((share for moment, share in self.steps.items() if moment <= progress + 1e-9), default=0.0)
