"""Learning rates over a training, as factors of the optimizer's own rate."""

from __future__ import annotations

import math


class WarmupCosine:
    """Rise linearly, then fall to zero along half a cosine.

    Args:
        warmup: Share of all steps in which the rate rises, in [0, 1).

    Paper: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5 without restarts.
    """

    def __init__(self, *, warmup: float) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), and is {warmup}")
        self.warmup = warmup

    def __call__(self, progress: float) -> float:
        """The factor when the share ``progress`` of all steps, in [0, 1], is done."""
        if progress < self.warmup:
            return (progress + 1e-3) / (self.warmup + 1e-3)
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


class Constant:
    """Keep the optimizer's own rate."""

    def __call__(self, progress: float) -> float:
        """The factor, always 1."""
        return 1.0
