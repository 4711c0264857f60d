"""One-dimensional k-means against exact dynamic programming, and what sharing leaves."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.primitives.codebooks import (
    BINS,
    Density,
    Linear,
    Optimal,
    PlusPlus,
    Random,
    best_partition,
    fit_codebook,
    inertia,
    ordered_points,
    share,
)

STARTS = [Linear(), Density(), Random(), PlusPlus(sample=1000), Optimal(bins=64)]


def exact(values: list[float], clusters: int) -> float:
    """The least inertia by the textbook's recursion, in float64."""
    ordered = np.sort(np.array(values, dtype=np.float64))

    def error(first: int, end: int) -> float:
        run = ordered[first:end]
        return float(((run - run.mean()) ** 2).sum())

    @cache
    def best(end: int, runs: int) -> float:
        if end == 0:
            return 0.0
        if runs == 0:
            return float("inf")
        return min(best(first, runs - 1) + error(first, end) for first in range(end))

    return best(len(ordered), clusters)


@given(st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=14), st.integers(1, 5))
def test_the_optimal_start_finds_the_exact_optimum_of_few_weights(values: list[float], clusters: int) -> None:
    weights = torch.tensor(values, dtype=torch.float32)
    codebook = fit_codebook(weights, clusters, Optimal(bins=64), iterations=50, seed=0)
    assert len(codebook) <= clusters
    assert inertia(weights, codebook) == pytest.approx(exact(values, clusters), abs=1e-5)


@pytest.mark.parametrize("start", STARTS, ids=lambda start: type(start).__name__)
def test_every_start_ends_where_no_weight_would_change_its_cluster(start: Any) -> None:
    weights = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    codebook = fit_codebook(weights, 8, start, iterations=500, seed=0)
    shared = share(weights, codebook)
    assert shared.unique().tolist() == codebook.tolist()
    means = torch.stack([weights[shared == value].double().mean() for value in codebook])
    assert torch.allclose(means, codebook.double(), atol=1e-6)
    nearest = codebook[(weights[:, None] - codebook[None, :]).abs().argmin(1)]
    assert torch.allclose((weights - shared).abs(), (weights - nearest).abs(), atol=1e-6)


def test_starts_lie_where_the_paper_puts_them() -> None:
    weights = torch.tensor([8.0, 0, 1, 1, 1, 2, 2, 3])
    points = ordered_points(weights, 4)
    assert points.values.tolist() == [0, 1, 2, 3, 8]
    assert points.counts.tolist() == [1, 3, 2, 1, 1]
    assert Linear()(points, 3, 0).tolist() == [0, 4, 8]
    assert Density()(points, 4, 0).tolist() == [1, 1, 2, 8]  # the middles of quarters: weights 1, 3, 5 and 7
    assert set(Random()(points, 3, 0)) <= set(weights.tolist())
    assert PlusPlus(sample=8)(points, 2, 0).shape == (2,)


def test_a_far_weight_gets_a_centroid_by_plus_plus() -> None:
    points = ordered_points(torch.tensor([0.0] * 99 + [100.0]), 2)
    assert PlusPlus(sample=100)(points, 2, seed=3).tolist() == [0.0, 100.0]


@pytest.mark.parametrize("clusters", [2, 16, 128])
def test_many_weights_in_bins_end_at_the_centroids_of_sorted_ones(clusters: int) -> None:
    weights = torch.randn(6 * BINS, generator=torch.Generator().manual_seed(1))
    assert len(ordered_points(weights, clusters).values) < BINS
    assert ordered_points(weights, clusters).counts.sum() == len(weights)
    binned = fit_codebook(weights, clusters, Linear(), iterations=20, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.primitives.codebooks.BINS", len(weights))
        each = fit_codebook(weights, clusters, Linear(), iterations=20, seed=0)
    assert torch.allclose(binned, each, atol=5e-3)
    assert inertia(weights, binned) <= 1.0001 * inertia(weights, each)


def test_many_weights_beside_a_far_one_are_sorted() -> None:
    weights = torch.randn(6 * BINS, generator=torch.Generator().manual_seed(1))
    weights[0] = 1e6  # bins of one width would be 15 wide
    assert len(ordered_points(weights, 16).values) == len(weights.unique())


def test_bins_are_split_by_hand() -> None:
    values = np.array([0.0, 1.0, 10.0, 11.0])
    ones = np.ones(4)
    assert best_partition(ones, values, values**2, 2).tolist() == [0, 2]
    assert best_partition(ones, values, values**2, 9).tolist() == [0, 1, 2, 3]
    assert best_partition(ones, values, values**2, 1).tolist() == [0]


def test_a_weight_halfway_belongs_to_the_lower_centroid() -> None:
    assert share(torch.tensor([0.0, 0.5, 0.6, 1.0]), torch.tensor([0.0, 1.0])).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_fewer_values_than_clusters_are_left_as_they_are() -> None:
    weights = torch.tensor([1.0, -2.0, 1.0])
    codebook = fit_codebook(weights, 16, Optimal(bins=8), iterations=10, seed=0)
    assert codebook.tolist() == [-2.0, 1.0]
    assert share(weights, codebook).tolist() == weights.tolist()


def test_no_weight_and_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="no weight"):
        fit_codebook(torch.empty(0), 2, Linear(), iterations=1, seed=0)
    with pytest.raises(ValueError, match="NaN"):
        fit_codebook(torch.tensor([1.0, float("nan")]), 2, Linear(), iterations=1, seed=0)


def test_the_optimal_start_has_as_many_centroids_as_wanted_beyond_its_bins() -> None:
    weights = 0.05 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    optimal, linear = (fit_codebook(weights, 1000, s, iterations=300, seed=0) for s in (Optimal(bins=512), Linear()))
    assert 512 < len(optimal) <= 1000
    assert inertia(weights, optimal) <= 1.05 * inertia(weights, linear)


def test_beyond_its_bins_the_optimal_start_lies_at_the_edges_of_as_many_bins_as_clusters() -> None:
    points = ordered_points(torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 100]), 4)
    # Half of the four even in the range, from 0 and from 50; half in the distribution, the first and the fifth weight.
    assert Optimal(bins=3)(points, 4, 0).tolist() == [0, 4, 100]


@pytest.mark.parametrize("factor", [1e-42, 1e-36, 1.0, 6e37])
def test_weights_of_any_range_of_float32_are_shared_alike(factor: float) -> None:
    weights = torch.randn(6 * BINS, generator=torch.Generator().manual_seed(1))
    codebook = fit_codebook(weights * factor, 4, Linear(), iterations=100, seed=0)
    expected = fit_codebook(weights, 4, Linear(), iterations=100, seed=0)
    assert torch.allclose(codebook.double() / factor, expected.double(), rtol=0.02)


def test_many_equal_weights_are_one_value() -> None:
    weights = torch.full((6 * BINS,), 0.3)
    assert fit_codebook(weights, 4, Optimal(bins=64), iterations=9, seed=0).tolist() == weights[:1].tolist()
