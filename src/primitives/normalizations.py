"""Making the scores of different layers comparable before they compete."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Normalization(Protocol):
    """Makes the scores of layers comparable; an axis of channel pruning."""

    def __call__(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Normalize the scores of each group by itself.

        Args:
            scores: Scores by group name.

        Returns:
            Scores of the same names, order and shapes.
        """
        ...


class ByNorm:
    """Divide the scores of each group by their L2 norm.

    Paper: Molchanov et al. 2017, arXiv:1611.06440, section 2.2 (normalization).
    """

    def __call__(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give the scores of each group the norm 1; scores that are all zero stay zero.

        >>> import torch
        >>> ByNorm()({"conv": torch.tensor([3.0, 4.0]), "dead": torch.zeros(2)})
        {'conv': tensor([0.6000, 0.8000]), 'dead': tensor([0., 0.])}
        """
        return {name: _divided(score, score.norm()) for name, score in scores.items()}


class ByMean:
    """Divide the scores of each group by the mean of their absolute values."""

    def __call__(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give the scores of each group the mean absolute value 1; scores that are all zero stay zero.

        >>> import torch
        >>> ByMean()({"conv": torch.tensor([1.0, 3.0]), "dead": torch.zeros(2)})
        {'conv': tensor([0.5000, 1.5000]), 'dead': tensor([0., 0.])}
        """
        return {name: _divided(score, score.abs().mean()) for name, score in scores.items()}


def _divided(score: Tensor, divisor: Tensor) -> Tensor:
    return score if divisor == 0 else score / divisor
