"""Parts of a data set, chosen so that each class has its share and no image is in two parts."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def constant(images: Tensor) -> Tensor:
    """Which of ``images [n, c, h, w]`` have one colour in all their pixels: ``[n]``, bool."""
    flat = images.flatten(2)
    return (flat.amin(2) == flat.amax(2)).all(1)


def copies(*parts: Tensor) -> Tensor:
    """Number the images so that those of equal pixels have one number; an image of one colour has its own.

    Args:
        parts: Images of each part, ``[n, c, h, w]``, uint8, numbered through from the first part to the last.

    Returns:
        ``[sum of n]``, int64: the index of the first image with these pixels.
    """
    first: dict[bytes, int] = {}
    rows = (row for part in parts for row in part.contiguous().numpy())
    found = [first.setdefault(hashlib.sha256(row.data).digest(), at) for at, row in enumerate(rows)]
    flat = torch.cat([constant(part) for part in parts])
    return torch.where(flat, torch.arange(len(found)), torch.tensor(found, dtype=torch.int64))


def stratified(labels: Tensor, groups: Tensor, share: float, seed: int, *, least: int) -> tuple[Tensor, Tensor]:
    """Choose ``share`` of the images of each class, without dividing a group.

    The share is one of groups: a class of n groups gives ``share * n`` of them, rounded so that all classes together
    give ``share`` of all; at least one if it has ``least`` or more, and never its last one.

    Args:
        labels: Class of each image, ``[n]``, int64.
        groups: Group of each image, ``[n]``, int64, e.g. of equal images; its first image says a group's class.
        share: Share of the groups that are chosen, in (0, 1).
        seed: Seed of the choice.
        least: Number of groups from which a class gives at least one.

    Returns:
        Sorted indices of the rest and of the chosen images, int64; together they are ``0 … n-1``.
    """
    found, members = torch.unique(groups, return_inverse=True)
    first = torch.full((len(found),), len(groups)).scatter_reduce(0, members, torch.arange(len(groups)), "amin")
    of_group = labels[first]
    counts = torch.bincount(of_group)
    exact = counts.to(torch.float64) * share
    wanted = exact.floor().to(torch.int64)
    left = round(share * len(found)) - int(wanted.sum())
    wanted[(wanted - exact).argsort(stable=True)[: max(0, left)]] += 1  # the largest remainders first
    wanted = torch.where(counts >= least, wanted.clamp(min=1), wanted)
    wanted = torch.minimum(wanted, (counts - 1).clamp(min=0))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(found), dtype=torch.bool)
    for label, count in enumerate(wanted.tolist()):
        places = (of_group == label).nonzero().flatten()
        chosen[places[torch.randperm(len(places), generator=generator)[:count]]] = True
    in_chosen = chosen[members]
    return (~in_chosen).nonzero().flatten(), in_chosen.nonzero().flatten()
