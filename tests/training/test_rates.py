"""Learning rates."""

from __future__ import annotations

import math

import pytest

from src.training.rates import Constant, WarmupCosine


def test_the_rate_rises_and_falls_to_zero() -> None:
    rate = WarmupCosine(warmup=0.2)
    assert rate(0.0) < 0.01
    assert rate(0.2) == pytest.approx(1)
    assert rate(0.6) == pytest.approx(0.5)
    assert rate(1.0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_after_the_warmup_the_rate_is_half_a_cosine(warmup: float) -> None:
    rate = WarmupCosine(warmup=warmup)
    for step in range(11):
        share = step / 10
        expected = 0.5 * (1 + math.cos(math.pi * share))
        assert rate(warmup + share * (1 - warmup)) == pytest.approx(expected)


def test_the_rate_rises_in_equal_steps_from_more_than_zero() -> None:
    rate = WarmupCosine(warmup=0.5)
    rises = [rate(0.1 * (step + 1)) - rate(0.1 * step) for step in range(4)]
    assert rate(0.0) > 0
    assert rises == pytest.approx([rises[0]] * 4)


def test_without_a_warmup_the_first_rate_is_the_optimizers() -> None:
    assert WarmupCosine(warmup=0.0)(0.0) == 1


@pytest.mark.parametrize("warmup", [-0.1, 1.0, math.nan])
def test_a_warmup_outside_its_range_is_refused(warmup: float) -> None:
    with pytest.raises(ValueError, match=r"warmup must be in \[0, 1\)"):
        WarmupCosine(warmup=warmup)


def test_a_constant_rate_is_the_optimizers() -> None:
    assert {Constant()(progress) for progress in (0.0, 0.5, 1.0)} == {1.0}
