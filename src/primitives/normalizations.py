"""Making the scores of different layers comparable before they compete."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Normalization = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class ByNorm:
    """Divide the scores of each group by their L2 norm.

    Paper: Molchanov et al. 2017, arXiv:1611.06440, section 2.2 (normalization).
    """

    def __call__(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scores of norm 1 by group name; those that are all zero stay so.

        >>> import torch
        >>> ByNorm()({"conv": torch.tensor([3.0, 4.0]), "dead": torch.zeros(2)})
        {'conv': tensor([0.6000, 0.8000]), 'dead': tensor([0., 0.])}
        """
        return {name: _divided(score, score.norm()) for name, score in scores.items()}


class ByMean:
    """Divide the scores of each group by the mean of their absolute values."""

    def __call__(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scores of mean 1 by group name; those that are all zero stay so.

        >>> import torch
        >>> ByMean()({"conv": torch.tensor([1.0, 3.0]), "dead": torch.zeros(2)})
        {'conv': tensor([0.5000, 1.5000]), 'dead': tensor([0., 0.])}
        """
        return {name: _divided(score, score.abs().mean()) for name, score in scores.items()}


def _divided(score: Tensor, by: Tensor) -> Tensor:
    return score if by == 0 else score / by
