"""Grids of n bits: by hand, against an exhaustive search, and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.primitives.quantizers import Affine, Grid, Symmetric, check_bits, straight_through


def test_a_symmetric_grid_of_three_bits_by_hand() -> None:
    grid = Symmetric(per_channel=False, candidates=1)(torch.tensor([[-3.0, 0.4, 1.6, 3.0]]), 3)
    assert (grid.low, grid.high, float(grid.scale)) == (-3, 3, 1.0)
    assert grid.quantize(torch.tensor([[-3.0, 0.4, 1.6, 9.0]])).tolist() == [[-3.0, 0.0, 2.0, 3.0]]


def test_an_affine_grid_of_two_bits_has_zero_on_it() -> None:
    grid = Affine(per_channel=False, candidates=1)(torch.tensor([[-1.0, 0.0, 2.0]]), 2)
    assert (float(grid.scale), int(grid.zero_point), grid.low, grid.high) == (1.0, 1, 0, 3)
    assert grid.quantize(torch.tensor([[-1.0, 0.0, 1.4, 2.0]])).tolist() == [[-1.0, 0.0, 1.0, 2.0]]


def test_one_symmetric_bit_is_the_sign_times_the_mean() -> None:
    values = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.5, -0.5]])
    grid = Symmetric(per_channel=True, candidates=10)(values, 1)
    assert grid.quantize(values).tolist() == [[2.0, -2.0, 2.0], [0.5, 0.5, -0.5]]
    assert not Symmetric(per_channel=True, candidates=1).has_zero(1)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("fit", [Symmetric(per_channel=True, candidates=20), Affine(per_channel=True, candidates=20)])
def test_n_bits_give_at_most_two_to_the_n_values_a_channel(fit: Any, bits: int) -> None:
    values = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    grid = fit(values, bits)
    for row in grid.quantize(values):
        assert row.unique().numel() <= 2**bits
    if fit.has_zero(bits):
        assert bool((grid.quantize(torch.zeros_like(values)) == 0).all())


@given(st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=40), st.integers(2, 8))
def test_rounding_errs_by_half_a_step_and_a_second_rounding_by_nothing(values: list[float], bits: int) -> None:
    weight = torch.tensor([values])
    grid = Symmetric(per_channel=False, candidates=1)(weight, bits)
    rounded = grid.quantize(weight)
    assert bool(((rounded - weight).abs() <= grid.scale / 2 + 1e-6).all())
    assert torch.equal(grid.quantize(rounded), rounded)


def test_cutting_the_largest_weights_is_no_worse_than_keeping_them() -> None:
    values = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    values[:, 0] = 20.0
    errors = []
    for candidates in (1, 80):
        grid = Symmetric(per_channel=True, candidates=candidates)(values, 3)
        errors.append((grid.quantize(values) - values).square().sum(1))
    assert bool((errors[1] < errors[0]).all())


def test_the_gradient_passes_inside_the_range_and_stops_outside() -> None:
    grid = Grid(3, torch.tensor(1.0), torch.tensor(0), -3, 3)
    values = torch.tensor([[-9.0, 0.4, 2.6, 9.0]], requires_grad=True)
    straight_through(values, grid).sum().backward()
    assert straight_through(values, grid).tolist() == [[-3.0, 0.0, 3.0, 3.0]]
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_stored_integers_stand_for_the_quantized_values() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    for fit in (Symmetric(per_channel=True, candidates=10), Affine(per_channel=True, candidates=10)):
        grid = fit(weight, 4)
        stored = grid.stored(weight)
        by_hand = (stored.integers - stored.zero_point.view(-1, 1)) * stored.scale.view(-1, 1)
        assert torch.equal(stored.values(), by_hand)
        assert torch.equal(stored.values(), grid.quantize(weight))
        assert torch.equal(stored.values(), grid.values(grid.integers(weight)))


@pytest.mark.parametrize("bits", [0, 17, -1, 2.5, True])
def test_bits_outside_one_to_sixteen_are_refused(bits: Any) -> None:
    with pytest.raises(ValueError, match="bits must be a whole number from 1 to 16"):
        check_bits(bits)


def test_a_channel_of_zeros_stays_zero() -> None:
    values = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    for fit in (Symmetric(per_channel=True, candidates=3), Affine(per_channel=True, candidates=3)):
        assert fit(values, 4).quantize(values)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bits", [1, 4])
def test_a_grid_of_one_scale_for_the_tensor_is_stored_as_one(bits: int) -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    stored = Symmetric(per_channel=False, candidates=1)(weight, bits).stored(weight)
    assert stored.scale.shape == stored.zero_point.shape == ()
    assert torch.equal(stored.values(), stored.integers * stored.scale)


def test_no_candidate_is_refused() -> None:
    for fit in (Symmetric, Affine):
        with pytest.raises(ValueError, match="candidates must be at least 1, and is 0"):
            fit(per_channel=True, candidates=0)


def test_values_that_are_no_numbers_have_no_grid() -> None:
    for values in (torch.empty(0, 2), torch.tensor([[1.0, float("nan")]])):
        with pytest.raises(ValueError, match="no grid fits them"):
            Symmetric(per_channel=True, candidates=1)(values, 4)
