"""Scores of weights: the higher survives."""

from __future__ import annotations

from torch import Tensor


def magnitude_scores(weight: Tensor) -> Tensor:
    """Score each weight by its absolute value; the higher survives.

    Args:
        weight: Any shape, e.g. ``[out, in, kh, kw]``.

    Returns:
        Scores of the same shape, non-negative, in the unit of ``weight``.

    Paper: Han et al. 2015, arXiv:1506.02626, section 3. No deviation.
    """
    return weight.detach().abs()


class Magnitude:
    """``magnitude_scores`` of every weight tensor."""

    def __call__(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scores by parameter name, each of its weight's shape."""
        return {name: magnitude_scores(weight) for name, weight in weights.items()}
