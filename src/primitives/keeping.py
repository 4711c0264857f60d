"""Keeping what earlier steps of a chain made of the weights, while the network is trained again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.contracts import NNCF_HOOKS, StepCallback

MOST_VALUES = 16_384  # the most values that the weights of a tensor can share
SAMPLE = 65_536  # weights that are looked at first
CHANCE = 10 / 2**24  # ten times the probability that two float32 weights are equal by chance
HALVES = (torch.bfloat16, torch.float16)
FEW_VALUES = 256  # a codebook of at most this many values may be exact in a half precision


def shared_values(weight: Tensor) -> Tensor | None:
    """Find the distinct non-zero values of a tensor whose weights share them.

    Weights share values if there are at most 16,384 distinct ones (zero is not counted), and if either each value has
    two weights on average, or more weights are equal than chance explains. More than 256 values that are all exact in
    bfloat16 or float16 are no codebook: the network was stored in that precision, and rounding made weights equal.

    Args:
        weight: Any shape, float32.

    Returns:
        The values, ``[k]``, ascending; None if the weights share none.

    >>> shared_values(torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0]))
    tensor([1., 2.])
    """
    flat = weight.detach().flatten()
    sample = flat[:: max(1, flat.numel() // SAMPLE)]
    if torch.unique(sample[sample != 0]).numel() > MOST_VALUES:
        return None
    flat = flat[flat != 0]
    values = torch.unique(flat)
    count, equal = flat.numel(), flat.numel() - values.numel()
    few = values.numel() <= count // 2 or equal >= 1 + CHANCE * count**2
    return values if 0 < values.numel() <= MOST_VALUES and few and not _rounded_to_half(values) else None


def _rounded_to_half(values: Tensor) -> bool:
    """Whether there are more than 256 values, and all are exact in one half precision."""
    exact = (torch.equal(values.to(half).to(values.dtype), values) for half in HALVES)
    return values.numel() > FEW_VALUES and any(exact)


class Keep(StepCallback):
    """Keeps zeros zero and shared values shared in any training.

    The gradient is projected onto the changes that keep the pattern: it becomes zero for a weight that is zero, and
    the members' mean for weights that share a value. Members start equal and see equal gradients, so they stay equal
    to the bit under any optimizer that treats each weight alike (SGD, Adam and their kind).

    Args:
        model: Its weight tensors of two dimensions or more are the pattern, as they are now.
    """

    capturable = True

    def __init__(self, model: nn.Module) -> None:
        self.zeros: dict[str, Tensor] = {}
        self.members: dict[str, tuple[Tensor, Tensor]] = {}
        for name, weight in model.named_parameters():
            if weight.dim() < 2 or not weight.requires_grad or NNCF_HOOKS in name:
                continue
            values = shared_values(weight)
            if values is not None:
                labels = label_members(weight, values)
                self.members[name] = (labels, torch.bincount(labels.flatten(), minlength=len(values) + 1).clamp(min=1))
            elif bool((weight == 0).any()):
                self.zeros[name] = weight.detach() == 0

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        for name, zero in self.zeros.items():
            gradient = parameters[name].grad
            if gradient is not None:
                self.zeros[name] = zero = zero.to(gradient.device)
                gradient.masked_fill_(zero, 0.0)
        for name, (labels, counts) in self.members.items():
            gradient = parameters[name].grad
            if gradient is not None:
                self.members[name] = labels, counts = labels.to(gradient.device), counts.to(gradient.device)
                gradient.copy_((member_sums(gradient, labels, len(counts)) / counts)[labels])


def label_members(weight: Tensor, values: Tensor) -> Tensor:
    """Label each weight with the value that it has.

    Args:
        weight: Any shape; each weight is zero or one of ``values``.
        values: ``[k]``, ascending.

    Returns:
        Labels, int64, of the weight's shape: the place of the value, counted from 1; 0 for a zero.

    >>> label_members(torch.tensor([-1.0, 0.0, 3.0, -1.0]), torch.tensor([-1.0, 3.0]))
    tensor([1, 0, 2, 1])
    """
    labels = torch.bucketize(weight.detach(), values) + 1
    return labels.masked_fill_(weight.detach() == 0, 0)


def member_sums(gradient: Tensor, labels: Tensor, count: int) -> Tensor:
    """Sum the gradient over the members of each label.

    Args:
        gradient: Any shape.
        labels: int64, of the same shape, each in ``[0, count)``.
        count: Number of labels.

    Returns:
        Sums, ``[count]``; that of label 0, the zeros, is 0.

    >>> member_sums(torch.tensor([1.0, 5.0, 2.0, 4.0]), torch.tensor([1, 0, 2, 1]), 3)
    tensor([0., 5., 2.])
    """
    sums = torch.zeros(count, device=gradient.device, dtype=gradient.dtype)
    sums.index_add_(0, labels.flatten(), gradient.flatten())
    sums[:1].zero_()  # in place on the device: an assigned 0 would be copied from the host
    return sums
