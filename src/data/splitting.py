"""Parts of a data set, chosen so that each class has its share and no image is in two parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from src.contracts import ImageSet


@dataclass(frozen=True)
class Looks:
    """What a look at every pixel of ``n`` images tells; large sets are looked at once.

    Attributes:
        digests: SHA-256 of the pixels of each image.
        lowest, highest: The least and the largest value in each channel of each image, ``[n, c]``, uint8.
    """

    digests: Sequence[bytes]
    lowest: Tensor
    highest: Tensor

    @classmethod
    def at(cls, images: ImageSet) -> Looks:
        """Look at all images of a set."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            found = list(pool.map(partial(_look, images), images.places()))
        digests = [digest for digests, _, _ in found for digest in digests]
        return cls(digests, torch.cat([low for _, low, _ in found]), torch.cat([high for _, _, high in found]))

    def select(self, indices: Tensor) -> Looks:
        """The looks of the images at ``indices``, ``[k]``, int64, in that order."""
        return Looks([self.digests[at] for at in indices.tolist()], self.lowest[indices], self.highest[indices])

    @property
    def constant(self) -> Tensor:
        """Which images have one colour in all their pixels: ``[n]``, bool."""
        return (self.lowest == self.highest).all(1)

    def copies(self) -> Tensor:
        """Number the images so that those of equal pixels have one number; an image of one colour has its own.

        Returns:
            ``[n]``, int64: the index of the first image with these pixels.
        """
        first: dict[bytes, int] = {}
        found = [first.setdefault(digest, at) for at, digest in enumerate(self.digests)]
        return torch.where(self.constant, torch.arange(len(found)), torch.tensor(found, dtype=torch.int64))


def _look(images: ImageSet, places: slice) -> tuple[list[bytes], Tensor, Tensor]:
    """Digests, lowest and highest values of some images of a set."""
    flat = images.images[places].contiguous().flatten(2).numpy()
    digests = [hashlib.sha256(row.data).digest() for row in flat]
    return digests, torch.from_numpy(flat.min(2)), torch.from_numpy(flat.max(2))  # numpy's are faster on bytes


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
