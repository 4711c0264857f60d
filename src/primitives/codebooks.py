"""One-dimensional k-means: few values that stand for many weights.

In one dimension clusters are intervals. So once the weights are in order, an iteration of Lloyd's algorithm needs only
k binary searches and k differences of prefix sums, for any number of weights; and dynamic programming finds the best
partition exactly. Many weights are put in order by counting them into bins: that is several times faster than sorting,
and moves no centroid by more than a fraction of a bin.
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
    """Weights in order; equal weights are one point.

    Attributes:
        values: ``[m]``, float64, ascending.
        counts: Number of weights of each value, ``[m]``, float64.
    """

    values: np.ndarray
    counts: np.ndarray

    def at_share(self, shares: np.ndarray) -> np.ndarray:
        """The index of the point that has each share of all weights below it; ``shares`` are in [0, 1)."""
        total = np.cumsum(self.counts)
        return np.searchsorted(total, shares * total[-1], side="right")


def ordered_points(weights: Tensor, clusters: int) -> Points:
    """Put weights in order: each by itself, or many as the means of bins.

    Args:
        weights: ``[n]``, float32, n >= 1, finite.
        clusters: Number of clusters that are wanted; bins are fine enough for these, or not used.

    >>> ordered_points(torch.tensor([2.0, 1.0, 2.0]), clusters=2)
    Points(values=array([1., 2.]), counts=array([1., 2.]))
    """
    low, high = (float(bound) for bound in weights.aminmax())
    limits = torch.finfo(weights.dtype)
    # float32 must resolve a weight's place in the range: a bin's width and the whole range are normal numbers.
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
        chunk = weights[start : start + CHUNK]
        bins = ((chunk - low) * ((BINS - 1) / (high - low))).to(torch.int32).numpy()
        counts += np.bincount(bins, minlength=BINS)
        sums += np.bincount(bins, weights=chunk.numpy(), minlength=BINS)
    full = counts > 0
    return Points(sums[full] / counts[full], counts[full])


class Start(Protocol):
    """Chooses the first centroids of k-means; the axis of weight sharing."""

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        """Choose centroids.

        Args:
            points: The weights in order.
            clusters: The most centroids, at least 1.
            seed: Seed of random draws.

        Returns:
            Up to ``clusters`` centroids, float64.
        """
        ...


class Linear:
    """Evenly spaced from the smallest to the largest weight, so that the few large weights have centroids, too.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.2 (their choice).
    """

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        """Choose centroids.

        >>> Linear()(ordered_points(torch.tensor([0.0, 1.0, 1.0, 8.0]), 3), 3, seed=0)
        array([0., 4., 8.])
        """
        return np.linspace(points.values[0], points.values[-1], clusters)


class Density:
    """Evenly spaced over the cumulative distribution: the same number of weights lies between any two neighbours.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.2.
    """

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        """Choose centroids.

        >>> Density()(ordered_points(torch.tensor([0.0, 1.0, 1.0, 8.0]), 2), 2, seed=0)  # a quarter, three quarters
        array([1., 8.])
        """
        return points.values[points.at_share((np.arange(clusters) + 0.5) / clusters)]


class Random:
    """Weights drawn at random (Forgy), no two equal.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.2.
    """

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        drawn = min(clusters, len(points.values))
        probabilities = points.counts / points.counts.sum()
        return np.sort(np.random.default_rng(seed).choice(points.values, drawn, replace=False, p=probabilities))


@dataclass(frozen=True, kw_only=True)
class PlusPlus:
    """Each next centroid is drawn in proportion to the squared distance from the centroids before it.

    Attributes:
        sample: Number of weights to draw from, evenly spaced among all, at least 1.

    Paper: Arthur and Vassilvitskii 2007, k-means++.
    """

    sample: int

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise ValueError(f"sample must be at least 1, and is {self.sample}")

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        sample = points.values[points.at_share((np.arange(self.sample) + 0.5) / self.sample)]
        generator = np.random.default_rng(seed)
        centroids = [generator.choice(sample)]
        distance = (sample - centroids[0]) ** 2
        while len(centroids) < clusters and distance.sum() > 0:
            centroids.append(generator.choice(sample, p=distance / distance.sum()))
            distance = np.minimum(distance, (sample - centroids[-1]) ** 2)
        return np.sort(np.array(centroids))


@dataclass(frozen=True, kw_only=True)
class Optimal:
    """The best partition along the edges of a histogram, found exactly by dynamic programming.

    Half of the edges are evenly spaced over the range, half over the cumulative distribution. With as many bins as
    weights, no partition is better. More clusters than bins begin at the edges of a histogram with as many bins as
    clusters; on 100,000 normal or heavier-tailed weights that is worse than the partition (by a fifth to a half in
    inertia) up to about as many clusters as bins.

    Attributes:
        bins: Number of bins of the histogram, at least 2; the work grows with its square.

    Paper: Wang and Song 2011, Ckmeans.1d.dp, equation 1.
    """

    bins: int

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"bins must be at least 2, and is {self.bins}")

    def __call__(self, points: Points, clusters: int, seed: int) -> np.ndarray:
        """Choose centroids.

        >>> Optimal(bins=4)(ordered_points(torch.tensor([0.0, 1.0, 1.0, 8.0]), 2), 2, seed=0)
        array([0.66666667, 8.        ])
        """
        if clusters > self.bins and len(points.values) > self.bins:
            return points.values[_bin_starts(points, clusters)]
        starts = _bin_starts(points, self.bins)
        middle = points.values[len(points.values) // 2]
        offsets = points.values - middle  # small numbers lose fewer digits to cancellation
        counts, sums, squares = (np.add.reduceat(points.counts * offsets**power, starts) for power in (0, 1, 2))
        runs = best_partition(counts, sums, squares, clusters)
        return middle + np.add.reduceat(sums, runs) / np.add.reduceat(counts, runs)


def _bin_starts(points: Points, bins: int) -> np.ndarray:
    """The first point of each bin, ``[at most bins]``.

    Half of the bins are evenly spaced over the range, half over the cumulative distribution.
    """
    if len(points.values) <= bins:
        return np.arange(len(points.values))
    even = np.linspace(points.values[0], points.values[-1], bins // 2, endpoint=False)
    dense = points.at_share(np.linspace(0, 1, bins - bins // 2, endpoint=False))
    return np.unique(np.concatenate([np.searchsorted(points.values, even), dense]))


def best_partition(counts: np.ndarray, sums: np.ndarray, squares: np.ndarray, clusters: int) -> np.ndarray:
    """Split bins into at most ``clusters`` runs of neighbours, with the least squared error.

    Args:
        counts: Number of values in each bin, ``[m]``, float64, positive.
        sums: Sum of the values in each bin, ``[m]``, float64.
        squares: Sum of the squared values in each bin, ``[m]``, float64.
        clusters: At least 1.

    Returns:
        The first bin of each run, ascending.

    Paper: Wang and Song 2011, Ckmeans.1d.dp, equation 1.

    >>> values = np.array([0.0, 1.0, 10.0, 11.0])
    >>> best_partition(np.ones(4), values, values**2, clusters=2)
    array([0, 2])
    """
    bins = len(counts)
    n, s, q = (np.concatenate([[0.0], np.cumsum(each)]) for each in (counts, sums, squares))
    first, end = np.arange(bins)[:, None], np.arange(1, bins + 1)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = q[end] - q[first] - (s[end] - s[first]) ** 2 / (n[end] - n[first])
    error = np.where(end > first, np.maximum(error, 0.0), np.inf)  # error of one run: bins `first` up to before `end`
    best = error[0]  # error of the bins before `end`, in one run
    starts = [np.zeros(bins, np.int64)]
    for _ in range(1, min(clusters, bins)):
        total = np.concatenate([[np.inf], best[:-1]])[:, None] + error
        starts.append(total.argmin(0))
        best = total[starts[-1], np.arange(bins)]
    runs, last = [], bins - 1
    for start in reversed(starts):
        runs.append(int(start[last]))
        last = runs[-1] - 1
        if last < 0:
            break
    return np.array(runs[::-1])


def fit_codebook(weights: Tensor, clusters: int, start: Start, *, iterations: int, seed: int) -> Tensor:
    """Find centroids of the least squared distance to ``weights`` by Lloyd's algorithm.

    Args:
        weights: Any shape, float32.
        clusters: The most centroids, at least 1.
        start: Chooses the first centroids.
        iterations: The most iterations; the algorithm ends earlier if no weight changes its cluster.
        seed: Seed of a random start.

    Returns:
        Up to ``clusters`` distinct centroids, ``[k]``, float32, ascending.

    Raises:
        ValueError: There is no weight, or a weight is NaN or infinite.

    Paper: Lloyd 1982; Han et al. 2016, arXiv:1510.00149, section 3.

    >>> weights = torch.tensor([-1.0, -0.5, 0.5, 1.0])
    >>> fit_codebook(weights, 2, Linear(), iterations=10, seed=0)
    tensor([-0.7500,  0.7500])
    """
    flat = weights.detach().cpu().flatten()
    if flat.numel() == 0:
        raise ValueError("there is no weight to cluster")
    if not torch.isfinite(flat).all():
        raise ValueError("weights are NaN or infinite: nothing can be clustered")
    points = ordered_points(flat, clusters)
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
        borders = found[np.concatenate([[True], np.diff(found) > 0])]  # an empty cluster is dropped
        centroids = np.diff(sums[borders]) / np.diff(counts[borders])
    return torch.from_numpy(np.unique(centroids.astype(np.float32)))


def share(weights: Tensor, codebook: Tensor) -> Tensor:
    """Replace each weight by the nearest centroid; of two that are equally near, by the lower.

    Args:
        weights: Any shape.
        codebook: Centroids, ``[k]``, ascending.

    >>> share(torch.tensor([-1.0, 0.0, 0.1, 1.0]), torch.tensor([-0.5, 0.5]))
    tensor([-0.5000, -0.5000,  0.5000,  0.5000])
    """
    middles = ((codebook[1:].double() + codebook[:-1].double()) / 2).float()
    flat = weights.detach().flatten()
    shared = torch.empty_like(flat)
    for start in range(0, flat.numel(), CHUNK):  # labels of all weights at once would need twice their memory
        labels = torch.bucketize(flat[start : start + CHUNK], middles, out_int32=True)
        torch.index_select(codebook, 0, labels, out=shared[start : start + CHUNK])
    return shared.view_as(weights)


def inertia(weights: Tensor, codebook: Tensor) -> float:
    """The sum of the squared distances of the weights from their centroids.

    >>> inertia(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-0.5, 0.5]))
    0.75
    """
    flat = weights.detach().flatten()
    parts = (flat[start : start + CHUNK] for start in range(0, flat.numel(), CHUNK))
    return sum(float((part.double() - share(part, codebook).double()).square().sum()) for part in parts)
