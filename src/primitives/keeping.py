"""Keeping, while a network is trained, what earlier steps of a chain made of its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.contracts import StepCallback

MOST = 16_384  # values that a tensor may share; more are no codebook
SAMPLE = 65_536
CHANCE = 10 / 2**24  # ten times as many pairs of equal float32 as chance makes of each pair of weights
HALVES = (torch.bfloat16, torch.float16)
FEW = 256  # values that may all be representable in 16 bits and still be a codebook


def shared_values(weight: Tensor) -> Tensor | None:
    """The distinct non-zero values of a tensor whose weights share them; None where they do not.

    Weights share values where there are at most 16,384 distinct ones, zero aside, and either each has two weights on
    average or more weights are equal than chance would have it. More than 256 that bfloat16 or float16 can all hold
    are no codebook: the network was stored in that precision, and its weights are equal where rounding made them so.
    """
    flat = weight.detach().flatten()
    sample = flat[:: max(1, flat.numel() // SAMPLE)]
    if torch.unique(sample[sample != 0]).numel() > MOST:
        return None
    flat = flat[flat != 0]
    values = torch.unique(flat)
    count, equal = flat.numel(), flat.numel() - values.numel()
    few = values.numel() <= count // 2 or equal >= 1 + CHANCE * count**2
    return values if 0 < values.numel() <= MOST and few and not _rounded(values) else None


def _rounded(values: Tensor) -> bool:
    """Whether so many values are all those of a half precision that it must have made them."""
    return values.numel() > FEW and any(torch.equal(values.to(half).to(values.dtype), values) for half in HALVES)


class Keep(StepCallback):
    """Zeros stay zeros and weights that share a value go on sharing one, whatever trains the network.

    The gradient is projected onto the weights that keep the pattern: zero where a weight is zero, the members' mean
    where they share a value. Members that start equal and see equal gradients stay equal to the bit under any
    optimizer that treats each weight alike (SGD, Adam and their kind).

    Args:
        model: Its weight tensors of two dimensions or more, as they are now, are the pattern.
    """

    def __init__(self, model: nn.Module) -> None:
        self.zeros: dict[str, Tensor] = {}
        self.members: dict[str, tuple[Tensor, Tensor]] = {}
        for name, weight in model.named_parameters():
            if weight.dim() < 2 or not weight.requires_grad or "__nncf_hooks" in name:
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
    """Which of the sorted ``values [k]`` each weight is, counted from 1; 0 for a zero. int64, of the weight's shape."""
    labels = torch.bucketize(weight.detach(), values) + 1
    return labels.masked_fill_(weight.detach() == 0, 0)


def member_sums(gradient: Tensor, labels: Tensor, count: int) -> Tensor:
    """Sum the gradient over the members of each label, ``[count]``; nothing moves label 0, the zeros."""
    sums = torch.zeros(count, device=gradient.device, dtype=gradient.dtype)
    sums.index_add_(0, labels.flatten(), gradient.flatten())
    sums[0] = 0
    return sums
