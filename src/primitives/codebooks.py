"""One-dimensional k-means: few values that stand for many weights.

On a line k-means has structure. Clusters are intervals, so that after one sort a Lloyd iteration needs no more than k
binary searches and k differences of prefix sums, whatever the number of weights; and the best partition can be found
exactly by dynamic programming.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 22


class Start(Protocol):
    """Where the centroids begin."""

    def __call__(self, ordered: np.ndarray, clusters: int, seed: int) -> np.ndarray:
        """Up to ``clusters`` centroids, float64, for ``ordered`` (``[n]``, float32, ascending, n >= 1)."""
        ...


class Linear:
    """Evenly from the smallest to the largest weight, so that the few large ones have centroids, too.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.2 (their choice).
    """

    def __call__(self, ordered: np.ndarray, clusters: int, seed: int) -> np.ndarray:
        return np.linspace(ordered[0], ordered[-1], clusters, dtype=np.float64)


class Density:
    """Evenly over the cumulative distribution: as many weights between any two.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.2.
    """

    def __call__(self, ordered: np.ndarray, clusters: int, seed: int) -> np.ndarray:
        at = ((np.arange(clusters) + 0.5) / clusters * len(ordered)).astype(np.int64)
        return ordered[at].astype(np.float64)


class Random:
    """Weights drawn at random (Forgy).

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.2.
    """

    def __call__(self, ordered: np.ndarray, clusters: int, seed: int) -> np.ndarray:
        drawn = np.random.default_rng(seed).choice(len(ordered), min(clusters, len(ordered)), replace=False)
        return np.sort(ordered[drawn].astype(np.float64))


class PlusPlus:
    """Each next centroid drawn in proportion to the squared distance from those before it.

    Args:
        sample: Weights to draw from, evenly spaced among all.

    Paper: Arthur and Vassilvitskii 2007, k-means++.
    """

    def __init__(self, *, sample: int) -> None:
        if sample < 1:
            raise ValueError(f"sample must be at least 1, and is {sample}")
        self.sample = sample

    def __call__(self, ordered: np.ndarray, clusters: int, seed: int) -> np.ndarray:
        some = ordered[:: max(1, len(ordered) // self.sample)].astype(np.float64)
        generator = np.random.default_rng(seed)
        centroids = [generator.choice(some)]
        distance = (some - centroids[0]) ** 2
        while len(centroids) < clusters and distance.sum() > 0:
            centroids.append(generator.choice(some, p=distance / distance.sum()))
            distance = np.minimum(distance, (some - centroids[-1]) ** 2)
        return np.sort(np.array(centroids))


class Optimal:
    """The best partition along the edges of a histogram, found exactly by dynamic programming.

    Half of the edges lie evenly over the range, half over the cumulative distribution. With as many bins as weights
    the partition is the best of all.

    Args:
        bins: Of the histogram, at least 2; work grows with their square.

    Paper: Wang and Song 2011, Ckmeans.1d.dp, equation 1.
    """

    def __init__(self, *, bins: int) -> None:
        if bins < 2:
            raise ValueError(f"bins must be at least 2, and is {bins}")
        self.bins = bins

    def __call__(self, ordered: np.ndarray, clusters: int, seed: int) -> np.ndarray:
        edges = self._edges(ordered)
        middle = float(ordered[len(ordered) // 2])
        counts, sums, squares = _moments(ordered, edges, middle)
        last = best_partition(counts, sums, squares, clusters)
        return middle + np.add.reduceat(sums, last) / np.add.reduceat(counts, last)

    def _edges(self, ordered: np.ndarray) -> np.ndarray:
        """Where bins begin, as indices into ``ordered``; equal weights fall into one bin."""
        if len(ordered) <= self.bins:
            wanted = ordered
        else:
            even = np.linspace(ordered[0], ordered[-1], self.bins // 2, endpoint=False, dtype=np.float32)
            dense = ordered[np.linspace(0, len(ordered), self.bins - self.bins // 2, endpoint=False).astype(np.int64)]
            wanted = np.sort(np.concatenate([even, dense]))
        return np.unique(np.searchsorted(ordered, wanted))


def best_partition(counts: np.ndarray, sums: np.ndarray, squares: np.ndarray, clusters: int) -> np.ndarray:
    """Split bins into at most ``clusters`` runs of the least squared error.

    Args:
        counts, sums, squares: Of each bin's values, ``[m]``, float64, every count positive.
        clusters: At least 1.

    Returns:
        The first bin of each run, ascending.
    """
    bins = len(counts)
    n, s, q = (np.concatenate([[0.0], np.cumsum(each)]) for each in (counts, sums, squares))
    first, end = np.arange(bins)[:, None], np.arange(1, bins + 1)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = q[end] - q[first] - (s[end] - s[first]) ** 2 / (n[end] - n[first])
    error = np.where(end > first, np.maximum(error, 0.0), np.inf)  # of one run from bin `first` up to before `end`
    best = error[0]  # of the bins before `end` in one run
    starts = [np.zeros(bins, np.int64)]
    for _ in range(1, min(clusters, bins)):
        total = np.concatenate([[np.inf], best[:-1]])[:, None] + error
        starts.append(total.argmin(0))
        best = total[starts[-1], np.arange(bins)]
    runs, at = [], bins - 1
    for start in reversed(starts):
        runs.append(int(start[at]))
        at = runs[-1] - 1
        if at < 0:
            break
    return np.array(runs[::-1])


def fit_codebook(weights: Tensor, clusters: int, start: Start, *, iterations: int, seed: int) -> Tensor:
    """Find centroids of the least squared distance to ``weights`` by Lloyd's iteration.

    Args:
        weights: Any shape, float32.
        clusters: At least 1.
        start: Where they begin.
        iterations: At most so many; it ends when no weight changes its cluster.
        seed: Of a random start.

    Returns:
        Up to ``clusters`` distinct centroids, ``[k]``, float32, ascending.

    Paper: Lloyd 1982; Han et al. 2016, arXiv:1510.00149, section 3.
    """
    ordered = np.sort(weights.detach().cpu().numpy().ravel())
    if len(ordered) == 0:
        raise ValueError("there is no weight to cluster")
    if not np.isfinite(ordered[[0, -1]]).all():
        raise ValueError("weights are NaN or infinite: nothing can be clustered")
    centroids = np.unique(start(ordered, clusters, seed))
    sums = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    borders: np.ndarray | None = None
    for _ in range(iterations):
        # side="right": a weight halfway between two centroids belongs to the lower one, as in ``share``
        middles = ((centroids[1:] + centroids[:-1]) / 2).astype(np.float32)
        inner = np.searchsorted(ordered, middles, side="right")
        found = np.concatenate([[0], inner, [len(ordered)]])
        if borders is not None and len(found) == len(borders) and (found == borders).all():
            break
        borders = found[np.concatenate([[True], np.diff(found) > 0])]  # an empty cluster goes
        centroids = np.diff(sums[borders]) / np.diff(borders)
    return torch.from_numpy(np.unique(centroids.astype(np.float32)))


def share(weights: Tensor, codebook: Tensor) -> Tensor:
    """Replace each weight by the nearest of ``codebook`` (``[k]``, ascending); the lower of two equally near."""
    middles = (codebook[1:].double() + codebook[:-1].double()) / 2
    flat = weights.detach().flatten()
    shared = torch.empty_like(flat)
    for start in range(0, flat.numel(), CHUNK):  # labels of all weights at once would be twice their size
        some = flat[start : start + CHUNK]
        shared[start : start + CHUNK] = codebook[torch.bucketize(some, middles.float())]
    return shared.view_as(weights)


def inertia(weights: Tensor, codebook: Tensor) -> float:
    """The summed squared distance of the weights from their centroids."""
    flat = weights.detach().flatten()
    parts = (flat[start : start + CHUNK] for start in range(0, flat.numel(), CHUNK))
    return sum(float((part.double() - share(part, codebook).double()).square().sum()) for part in parts)


def _moments(ordered: np.ndarray, edges: np.ndarray, middle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, sum and sum of squares of each bin's values less ``middle`` (against cancellation), float64."""
    ends = [*edges[1:], len(ordered)]
    bins = [ordered[first:end].astype(np.float64) - middle for first, end in zip(edges, ends, strict=True)]
    counts = np.diff([*edges, len(ordered)]).astype(np.float64)
    return counts, np.array([values.sum() for values in bins]), np.array([values @ values for values in bins])
