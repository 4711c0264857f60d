"""Which weights stay: masks with an exact count, even if scores are equal."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def keep_largest(scores: Tensor, keep: int) -> Tensor:
    """Mark the ``keep`` largest scores; of equal scores those with the lower index stay.

    Args:
        scores: Any shape, no NaN.
        keep: How many stay, 0 … ``scores.numel()``.

    Returns:
        A bool mask of the same shape with exactly ``keep`` entries True.

    Raises:
        ValueError: ``keep`` is out of range, or a score is NaN.

    >>> keep_largest(torch.tensor([3.0, 1.0, 2.0, 2.0]), 2)
    tensor([ True, False,  True, False])
    """
    if not 0 <= keep <= scores.numel():
        raise ValueError(f"keep must be in 0 … {scores.numel()}, and is {keep}")
    flat = scores.detach().flatten()
    if torch.isnan(flat).any():
        raise ValueError("scores hold NaN: nothing can be ranked")
    if keep == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(flat.numel() - keep + 1).values
    mask = flat > threshold
    ties = flat == threshold
    mask |= ties & (ties.cumsum(0) <= keep - int(mask.sum()))
    return mask.view_as(scores)


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """The share of False over all masks, in [0, 1].

    >>> sparsity({"conv": torch.tensor([True, False]), "fc": torch.tensor([True, True])})
    0.25
    """
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total


def kept(count: int, sparsity: float) -> int:
    """How many of ``count`` weights stay at ``sparsity``: the nearest whole number, at least 1.

    >>> kept(10, 0.75), kept(10, 0.99)
    (2, 1)
    """
    return max(1, count - round(sparsity * count))


def require_more_zeros(weights: Mapping[str, Tensor], sparsity: float) -> None:
    """Check that a pruning to ``sparsity`` removes something and leaves something.

    Raises:
        ValueError: The weights already have as many zeros, or fewer weights than layers would stay.

    >>> require_more_zeros({"fc.weight": torch.tensor([0.0, 0.0, 1.0, 2.0])}, 0.5)
    Traceback (most recent call last):
    ValueError: sparsity 0.5 asks for 2 zeros, and the network has 2 already: nothing would be pruned
    """
    total = sum(weight.numel() for weight in weights.values())
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    wanted = round(sparsity * total)
    if wanted <= zeros:
        raise ValueError(
            f"sparsity {sparsity} asks for {wanted:,} zeros, and the network has {zeros:,} already: "
            f"nothing would be pruned"
        )
    if total - wanted < len(weights):
        raise ValueError(
            f"sparsity {sparsity} leaves {total - wanted} weights to {len(weights)} layers: everything would be removed"
        )
