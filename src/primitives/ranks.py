"""How many singular values of a layer stay."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor


class Rank(Protocol):
    """Chooses a layer's rank."""

    def __call__(self, singular_values: Tensor) -> int:
        """A rank from 1 to the number of ``singular_values`` (descending, ``[r]``)."""
        ...


class Energy:
    """The least rank that keeps so much of the sum of squared singular values.

    Args:
        energy: In (0, 1].

    Paper: Denton et al. 2014, arXiv:1404.0736, section 3.2.
    """

    def __init__(self, *, energy: float) -> None:
        if not 0 < energy <= 1:
            raise ValueError(f"energy must be in (0, 1], and is {energy}")
        self.energy = energy

    def __call__(self, singular_values: Tensor) -> int:
        squares = singular_values.double().square().cumsum(0)
        return min(int((squares < self.energy * squares[-1] * (1 - 1e-12)).sum()) + 1, len(singular_values))


class Fixed:
    """The same rank everywhere, as far as a layer has it.

    Args:
        rank: At least 1.
    """

    def __init__(self, *, rank: int) -> None:
        if not rank >= 1:
            raise ValueError(f"rank must be at least 1, and is {rank}")
        self.rank = rank

    def __call__(self, singular_values: Tensor) -> int:
        return min(self.rank, len(singular_values))


class Share:
    """The same share of each layer's rank.

    Args:
        share: In (0, 1].
    """

    def __init__(self, *, share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], and is {share}")
        self.share = share

    def __call__(self, singular_values: Tensor) -> int:
        return max(1, math.floor(self.share * len(singular_values)))
