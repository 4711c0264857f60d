"""One-dimensional k-means: few values that stand for many weights.

On a line k-means has structure. Clusters are intervals, so that once the weights are in order a Lloyd iteration needs
no more than k binary searches and k differences of prefix sums, whatever their number; and the best partition can be
found exactly by dynamic programming. Many weights are put in order by counting them into bins, which is several times
faster than sorting and moves no centroid by more than a fraction of a bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 18  # weights that fit a processor's cache, with their labels
BINS = 1 << 16


@dataclass(frozen=True)
class Points:
    """Weights in order, equal ones as one point: ``values`` and ``counts``, ``[m]``, float64, values ascending."""

    values: np.ndarray
    counts: np.ndarray

    def at(self, shares: np.ndarray) -> np.ndarray:
        """Which point holds the weight with so many others below it: ``shares`` of all, in [0, 1)."""
        total = np.cumsum(self.counts)
        return np.searchsorted(total, shares * total[-1], side="right")


def in_order(weights: Tensor, clusters: int) -> Points:
    """Put weights in order: each by itself, or many as the means of bins that are fine for so many ``clusters``.

    Args:
        weights: ``[n]``, float32, n >= 1, finite.
        clusters: Wanted of them.
    """
    low, high = (float(bound) for bound in weights.aminmax())
    limits = torch.finfo(weights.dtype)
    # float32 must tell where a weight lies in the range: a bin's width and the whole range are normal numbers.
    if weights.numel() > 4 * BINS and limits.tiny * BINS < high - low < limits.max:
        points = _binned(weights, low, high)
        if points.counts.max() * clusters * 64 <= weights.numel():
            return points
    values, counts = np.unique(weights.numpy(), return_counts=True)
    return Points(values.astype(np.float64), counts.astype(np.float64))


def _binned(weights: Tensor, low: float, high: float) -> Points:
    """The mean and the number of the weights in each of ``BINS`` bins of one width from ``low`` to ``high``."""
    counts, sums = np.zeros(BINS), np.zeros(BINS)
    for start in range(0, weights.numel(), CHUNK):
        some = weights[start : start + CHUNK]
        bins = ((some - low) * ((BINS - 1) / (high - low))).to(torch.int32).numpy()
        counts += np.bincount(bins, minlength=BINS)
        sums += np.bincount(bins, weights=some.numpy(), minlength=BINS)
    full = counts > 0
    return Points(sums[full] / counts[full], counts[full])


class Start(Protocol):
    """Where the centroids begin."""

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        """Up to ``clusters`` centroids, float64."""
        ...


class Linear:
    """Evenly from the smallest to the largest weight, so that the few large ones have centroids, too.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.2 (their choice).
    """

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        return np.linspace(points.values[0], points.values[-1], clusters)


class Density:
    """Evenly over the cumulative distribution: as many weights between any two.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.2.
    """

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        return points.values[points.at((np.arange(clusters) + 0.5) / clusters)]


class Random:
    """Weights drawn at random (Forgy), no two equal.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.2.
    """

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        drawn = min(clusters, len(points.values))
        chances = points.counts / points.counts.sum()
        return np.sort(np.random.default_rng(seed).choice(points.values, drawn, replace=False, p=chances))


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

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        some = points.values[points.at((np.arange(self.sample) + 0.5) / self.sample)]
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
    the partition is the best of all. More clusters than bins begin at the edges of a histogram of as many bins as
    clusters; on 100,000 normal or heavier-tailed weights that is worse than the partition (by a fifth to a half in
    inertia) up to about as many clusters as bins.

    Args:
        bins: Of the histogram, at least 2; work grows with their square.

    Paper: Wang and Song 2011, Ckmeans.1d.dp, equation 1.
    """

    def __init__(self, *, bins: int) -> None:
        if bins < 2:
            raise ValueError(f"bins must be at least 2, and is {bins}")
        self.bins = bins

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        if clusters > self.bins and len(points.values) > self.bins:
            return points.values[_first_of_bins(points, clusters)]
        first = _first_of_bins(points, self.bins)
        middle = points.values[len(points.values) // 2]
        away = points.values - middle  # against cancellation
        counts, sums, squares = (np.add.reduceat(points.counts * away**power, first) for power in (0, 1, 2))
        last = best_partition(counts, sums, squares, clusters)
        return middle + np.add.reduceat(sums, last) / np.add.reduceat(counts, last)


def _first_of_bins(points: Points, bins: int) -> np.ndarray:
    """The first point of each bin, half of them even in the range, half in the distribution; [at most ``bins``]."""
    if len(points.values) <= bins:
        return np.arange(len(points.values))
    even = np.linspace(points.values[0], points.values[-1], bins // 2, endpoint=False)
    dense = points.at(np.linspace(0, 1, bins - bins // 2, endpoint=False))
    return np.unique(np.concatenate([np.searchsorted(points.values, even), dense]))


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
    flat = weights.detach().cpu().flatten()
    if flat.numel() == 0:
        raise ValueError("there is no weight to cluster")
    if not torch.isfinite(flat).all():
        raise ValueError("weights are NaN or infinite: nothing can be clustered")
    points = in_order(flat, clusters)
    centroids = np.unique(start(points, clusters, seed))
    counts = np.concatenate([[0.0], np.cumsum(points.counts)])
    sums = np.concatenate([[0.0], np.cumsum(points.counts * points.values)])
    borders: np.ndarray | None = None
    for _ in range(iterations):
        # side="right": a weight halfway between two centroids belongs to the lower one, as in ``share``
        middles = ((centroids[1:] + centroids[:-1]) / 2).astype(np.float32)
        inner = np.searchsorted(points.values, middles, side="right")
        found = np.concatenate([[0], inner, [len(points.values)]])
        if borders is not None and len(found) == len(borders) and (found == borders).all():
            break
        borders = found[np.concatenate([[True], np.diff(found) > 0])]  # an empty cluster goes
        centroids = np.diff(sums[borders]) / np.diff(counts[borders])
    return torch.from_numpy(np.unique(centroids.astype(np.float32)))


def share(weights: Tensor, codebook: Tensor) -> Tensor:
    """Replace each weight by the nearest of ``codebook`` (``[k]``, ascending); the lower of two equally near."""
    middles = ((codebook[1:].double() + codebook[:-1].double()) / 2).float()
    flat = weights.detach().flatten()
    shared = torch.empty_like(flat)
    for start in range(0, flat.numel(), CHUNK):  # labels of all weights at once would be twice their size
        labels = torch.bucketize(flat[start : start + CHUNK], middles, out_int32=True)
        torch.index_select(codebook, 0, labels, out=shared[start : start + CHUNK])
    return shared.view_as(weights)


def inertia(weights: Tensor, codebook: Tensor) -> float:
    """The summed squared distance of the weights from their centroids."""
    flat = weights.detach().flatten()
    parts = (flat[start : start + CHUNK] for start in range(0, flat.numel(), CHUNK))
    return sum(float((part.double() - share(part, codebook).double()).square().sum()) for part in parts)
