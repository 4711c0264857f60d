"""Comparing the outputs of two networks, and finding which of many changes alter the outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Change = TypeVar("Change")


@torch.no_grad()
def precise_outputs(model: nn.Module, images: Tensor) -> Tensor:
    """The outputs in float64; in float32 if the network cannot compute in float64.

    Args:
        model: In eval mode; it is left as it was.
        images: ``[n, c, h, w]``.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 2.0)
    >>> precise_outputs(layer, torch.tensor([[0.5]]))
    tensor([[1.]], dtype=torch.float64)
    """
    try:
        wide: Tensor = copy.deepcopy(model).cpu().double()(images.cpu().double())
        return wide
    except RuntimeError:  # a forward that converts something to float32
        plain: Tensor = copy.deepcopy(model).cpu()(images.cpu())
        return plain


def same_outputs(found: Tensor, wanted: Tensor) -> bool:
    """Whether two outputs of ``precise_outputs`` are equal but for rounding, relative to the largest finite output.

    >>> same_outputs(torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, 2.0 + 1e-12]).double())
    True
    >>> same_outputs(torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, 2.0 + 1e-6]).double())
    False
    """
    error = 1e-9 if wanted.dtype == found.dtype == torch.float64 else 1e-4
    wanted, found = wanted.double(), found.double()
    if wanted.shape != found.shape:
        return False
    finite = wanted[wanted.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(found, wanted, rtol=0, atol=error * largest, equal_nan=True)


def failing(changes: Sequence[Change], holds: Callable[[Sequence[Change]], bool]) -> list[Change]:
    """Find the changes that alter the outputs, by halving; a set of changes that alters nothing is not divided further.

    Args:
        changes: Changes that can be made together or apart.
        holds: Whether the network still computes the same after these changes.

    >>> failing([1, 2, 3, 4, 5], lambda some: 4 not in some)
    [4]
    """
    if not changes or holds(changes):
        return []
    if len(changes) == 1:
        return list(changes)
    half = len(changes) // 2
    return [*failing(changes[:half], holds), *failing(changes[half:], holds)]
