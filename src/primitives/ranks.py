"""How many singular values of a layer stay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Rank(Protocol):
    """Chooses a layer's rank; the axis of low-rank factorisation."""

    def __call__(self, singular_values: Tensor) -> int:
        """Choose a rank.

        Args:
            singular_values: ``[r]``, descending.

        Returns:
            A rank from 1 to ``r``.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Energy:
    """The least rank that keeps a share of the sum of squared singular values.

    Attributes:
        energy: Share that is kept, in (0, 1].

    Paper: Denton et al. 2014, arXiv:1404.0736, section 3.2.
    """

    energy: float

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy must be in (0, 1], and is {self.energy}")

    def __call__(self, singular_values: Tensor) -> int:
        """Choose the least rank whose squares sum to at least ``energy`` of all.

        >>> import torch
        >>> Energy(energy=0.9)(torch.tensor([3.0, 2.0, 1.0]))  # squares 9 + 4 of 14 are 0.93
        2
        """
        squares = singular_values.double().square().cumsum(0)
        return min(int((squares < self.energy * squares[-1] * (1 - 1e-12)).sum()) + 1, len(singular_values))


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """The same rank for every layer; a layer of a lower rank keeps its own.

    Attributes:
        rank: At least 1.
    """

    rank: int

    def __post_init__(self) -> None:
        if not self.rank >= 1:
            raise ValueError(f"rank must be at least 1, and is {self.rank}")

    def __call__(self, singular_values: Tensor) -> int:
        return min(self.rank, len(singular_values))


@dataclass(frozen=True, kw_only=True)
class Share:
    """The same share of each layer's rank.

    Attributes:
        share: Share of the rank that is kept, in (0, 1].
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], and is {self.share}")

    def __call__(self, singular_values: Tensor) -> int:
        return max(1, math.floor(self.share * len(singular_values)))
