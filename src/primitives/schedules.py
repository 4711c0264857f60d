"""How sparsity grows while a network is fine-tuned."""

from __future__ import annotations


class OneShot:
    """All at once, before the first step.

    Paper: Han et al. 2015, arXiv:1506.02626, section 3 (one prune-retrain round).
    """

    def __call__(self, progress: float, sparsity: float) -> float:
        """Sparsity at ``progress`` in [0, 1] of the fine-tuning."""
        return sparsity


class Cubic:
    """Fast at first, when weights are redundant, then ever slower: ``s (1 - (1 - t)^3)``.

    Args:
        begin, end: Shares of the fine-tuning between which sparsity grows, ``0 <= begin < end <= 1``.
        updates: How often masks are made anew between them, at least 1.

    Paper: Zhu and Gupta 2017, arXiv:1710.01878, equation 1, with initial sparsity 0.
    """

    def __init__(self, *, begin: float, end: float, updates: int) -> None:
        if not 0 <= begin < end <= 1:
            raise ValueError(f"begin and end must hold 0 <= begin < end <= 1, and are {begin} and {end}")
        if updates < 1:
            raise ValueError(f"updates must be at least 1, and is {updates}")
        self.begin, self.end, self.updates = begin, end, updates

    def __call__(self, progress: float, sparsity: float) -> float:
        """Sparsity at ``progress`` in [0, 1] of the fine-tuning; never falls, and is ``sparsity`` from ``end`` on."""
        share = min(max((progress - self.begin) / (self.end - self.begin), 0.0), 1.0)
        stepped = int(share * self.updates + 1e-9) / self.updates  # 1e-9: no update a step late by rounding
        return sparsity * (1 - (1 - stepped) ** 3)
