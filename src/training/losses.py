"""Losses as objects: what training minimises is an argument."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


class CrossEntropy:
    """Mean cross entropy of a batch.

    Args:
        label_smoothing: Share of the target spread over all classes, in [0, 1).

    Paper: Szegedy et al. 2016, arXiv:1512.00567, section 7 (smoothing).
    """

    def __init__(self, *, label_smoothing: float) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), and is {label_smoothing}")
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
