"""Keeping what earlier steps of a chain made of the weights, while the network is trained again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.contracts import NNCF_HOOKS, StepCallback

MOST_VALUES = 16_384  # the most values that the weights of a tensor can share
SAMPLE = 65_536  # weights that are looked at first
CHANCE = 10 / 2**24  # ten times the probability that two float32 weights are equal by chance
HALVES = (torch.bfloat16, torch.float16)
WIDTH = 64  # terms of a sum on a GPU
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
        self.members: dict[str, Members] = {}
        for name, weight in model.named_parameters():
            if weight.dim() < 2 or not weight.requires_grad or NNCF_HOOKS in name:
                continue
            values = shared_values(weight)
            if values is not None:
                self.members[name] = Members(weight, values)
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
        for name, members in self.members.items():
            gradient = parameters[name].grad
            if gradient is not None:
                members.to(gradient.device)
                gradient.copy_(members.shared(members.sums(gradient) / members.counts))


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


class Members:
    """Which weights of a tensor share a value; sums a gradient over them.

    On a GPU, ``index_add_`` in its deterministic form adds the members of a value one after the other, so that a step
    of VGG16 took seconds. There, rows of 64 members are summed side by side, then rows of these sums, and so on.

    Args:
        weight: Any shape; each weight is zero or one of ``values``.
        values: ``[k]``, ascending.

    Attributes:
        labels: The place of each weight's value, counted from 1; 0 for a zero: int64, of the weight's shape.
        counts: Number of members of each label, at least 1: int64, ``[k + 1]``.
    """

    def __init__(self, weight: Tensor, values: Tensor) -> None:
        self.labels = label_members(weight, values)
        self.counts = torch.bincount(self.labels.flatten(), minlength=len(values) + 1).clamp(min=1)
        self.levels: list[Tensor] = []

    def to(self, device: torch.device) -> None:
        """Move to a device, in place."""
        if self.labels.device == device:
            return
        self.levels = [] if device.type == "cpu" else [i.to(device) for i in sum_levels(self.labels, len(self.counts))]
        self.labels, self.counts = self.labels.to(device), self.counts.to(device)

    def sums(self, gradient: Tensor) -> Tensor:
        """Sum a gradient of the weight's shape over the members of each label.

        Returns:
            Sums, ``[k + 1]``; that of label 0, the zeros, is 0.

        >>> members = Members(torch.tensor([-1.0, 0.0, 3.0, -1.0]), torch.tensor([-1.0, 3.0]))
        >>> members.sums(torch.tensor([1.0, 5.0, 2.0, 4.0]))
        tensor([0., 5., 2.])
        """
        if self.levels:
            return torch.cat([gradient.new_zeros(1), summed_by_levels(gradient.flatten(), self.levels)])
        sums = torch.zeros(len(self.counts), device=gradient.device, dtype=gradient.dtype)
        sums.index_add_(0, self.labels.flatten(), gradient.flatten())
        sums[:1].zero_()  # in place on the device: an assigned 0 would be copied from the host
        return sums

    def shared(self, values: Tensor) -> Tensor:
        """The value of its label, of ``[k + 1]``, for each weight."""
        return values[self.labels]


def sum_levels(labels: Tensor, count: int) -> list[Tensor]:
    """Where the terms of each level of sums stand in the level before, so that the last level has a sum for each label.

    Args:
        labels: int64, any shape, each in ``[0, count)``; what has label 0 is not summed.
        count: Number of labels.

    Returns:
        For each level int64 ``[sums, 64]``; one past the end of the level before stands for no term.

    >>> [level] = sum_levels(torch.tensor([1, 0, 2, 1]), 3)
    >>> level[:, :3]
    tensor([[0, 3, 4],
            [2, 4, 4]])
    """
    levels: list[Tensor] = []
    labels = labels.flatten().cpu()
    while not levels or len(labels) > count - 1:
        order = torch.argsort(labels, stable=True)
        lengths = torch.bincount(labels, minlength=count)
        rows = ((lengths + WIDTH - 1) // WIDTH).clamp(min=1)
        rows[0] = 0
        order = order[lengths[0] :]
        ordered = labels[order]
        within = torch.arange(len(order)) - (lengths.cumsum(0) - lengths)[ordered] + lengths[0]
        index = torch.full((int(rows.sum()), WIDTH), len(labels))
        index[(rows.cumsum(0) - rows)[ordered] + within // WIDTH, within % WIDTH] = order
        levels.append(index)
        labels = torch.repeat_interleave(torch.arange(count), rows)
    return levels


def summed_by_levels(terms: Tensor, levels: list[Tensor]) -> Tensor:
    """The sums of ``sum_levels`` of terms ``[n]``.

    >>> summed_by_levels(torch.tensor([1.0, 5.0, 2.0, 4.0]), sum_levels(torch.tensor([1, 0, 2, 1]), 3))
    tensor([5., 2.])
    """
    for index in levels:
        terms = torch.cat([terms, terms.new_zeros(1)])[index].sum(1)
    return terms
