"""How sparsity grows while a network is fine-tuned."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.primitives.schedules import Cubic, Exponential, MultiStep, OneShot

WINDOWS = (
    st.tuples(st.floats(0, 1), st.floats(0, 1))
    .map(lambda pair: (min(pair), max(pair)))
    .filter(lambda pair: pair[1] - pair[0] > 1e-3)
)
SHARES = st.floats(0, 1)


def zhu_and_gupta(step: int, begin: int, interval: int, updates: int, final: Fraction) -> Fraction:
    """Equation 1 of arXiv:1710.01878 with initial sparsity 0, in exact fractions.

    ``s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3`` for ``t`` in ``t_0, t_0 + dt, …, t_0 + n dt``; between two
    of those steps the masks, and so the sparsity, stay.
    """
    passed = min(max((step - begin) // interval, 0), updates) * interval
    return final + (0 - final) * (1 - Fraction(passed, updates * interval)) ** 3


def test_four_updates_by_hand() -> None:
    schedule = Cubic(begin=0.0, end=1.0, updates=4)
    found = [schedule(progress, 0.8) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.0, 0.4625, 0.7, 0.7875, 0.8])


def test_sparsity_stays_between_two_updates() -> None:
    schedule = Cubic(begin=0.0, end=1.0, updates=4)
    assert {schedule(progress, 0.8) for progress in (0.5, 0.6, 0.7499)} == {schedule(0.5, 0.8)}


@pytest.mark.parametrize(
    ("begin", "interval", "updates", "after"), [(0, 10, 40, 240), (100, 7, 13, 0), (3, 50, 1, 20), (0, 1000, 3, 1)]
)
def test_the_schedule_follows_zhu_and_guptas_equation(begin: int, interval: int, updates: int, after: int) -> None:
    end, final = begin + interval * updates, Fraction(9, 10)
    total = end + after
    schedule = Cubic(begin=begin / total, end=end / total, updates=updates)
    for update in range(-1, updates + 1):
        step = min(max(begin + update * interval + (interval - 1) // 2 + 1, 0), total)  # well inside the interval
        expected = zhu_and_gupta(step, begin, interval, updates, final)
        assert schedule(step / total, float(final)) == pytest.approx(float(expected), abs=1e-12), step


def test_nothing_goes_before_begin() -> None:
    schedule = Cubic(begin=0.3, end=0.7, updates=5)
    assert [schedule(progress, 0.9) for progress in (0.0, 0.1, 0.29)] == [0.0, 0.0, 0.0]


@given(WINDOWS, st.integers(1, 100), st.floats(0, 0.999), SHARES)
def test_the_target_is_reached_at_end_exactly_and_kept(
    window: tuple[float, float], updates: int, sparsity: float, later: float
) -> None:
    begin, end = window
    schedule = Cubic(begin=begin, end=end, updates=updates)
    assert schedule(end, sparsity) == sparsity
    assert schedule(end + later * (1 - end), sparsity) == sparsity


@given(WINDOWS, st.integers(1, 100), st.floats(0, 0.999), st.lists(SHARES, min_size=2))
def test_sparsity_never_falls_and_stays_between_zero_and_the_target(
    window: tuple[float, float], updates: int, sparsity: float, progress: list[float]
) -> None:
    schedule = Cubic(begin=window[0], end=window[1], updates=updates)
    values = [schedule(at, sparsity) for at in sorted(progress)]
    assert values == sorted(values)
    assert all(0 <= value <= sparsity for value in values)


def test_masks_are_computed_as_often_as_set() -> None:
    schedule = Cubic(begin=0.0, end=0.6, updates=40)
    values = {schedule(step / 10_000, 0.9) for step in range(10_001)}
    assert len(values) == 41  # none yet, then 40 updates


def test_growth_is_fast_at_first_and_slow_at_last() -> None:
    schedule = Cubic(begin=0.0, end=1.0, updates=10)
    values = [schedule((update + 0.5) / 10, 0.9) for update in range(11)]
    growth = [after - before for before, after in zip(values, values[1:], strict=False)]
    assert growth == sorted(growth, reverse=True)
    assert growth[-1] > 0


@pytest.mark.parametrize(("begin", "end"), [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.5), (0.0, 1.1)])
def test_a_window_without_length_or_outside_the_training_is_refused(begin: float, end: float) -> None:
    with pytest.raises(ValueError, match="begin and end must hold 0 <= begin < end <= 1"):
        Cubic(begin=begin, end=end, updates=4)


def test_no_update_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="updates must be at least 1, and is 0"):
        Cubic(begin=0.0, end=1.0, updates=0)


@given(SHARES, st.floats(0, 0.999))
def test_one_shot_has_the_whole_sparsity_from_the_start(progress: float, sparsity: float) -> None:
    assert OneShot()(progress, sparsity) == sparsity


def test_the_exponential_schedule_removes_the_same_share_of_what_is_left() -> None:
    schedule = Exponential(begin=0.0, end=0.5, updates=4)
    reached = [schedule(progress, 0.9) for progress in (0.0, 0.125, 0.25, 0.375, 0.5, 1.0)]
    left = [1 - sparsity for sparsity in reached]
    assert [after / before for before, after in itertools.pairwise(left[:5])] == pytest.approx([0.1**0.25] * 4)
    assert reached[4:] == [0.9, 0.9]


def test_steps_are_taken_at_their_moments() -> None:
    schedule = MultiStep(steps={0.0: 0.5, 0.4: 0.8, 0.7: 1.0})
    assert [schedule(progress, 0.5) for progress in (0.0, 0.39, 0.4, 0.69, 0.7, 1.0)] == [
        0.25,
        0.25,
        0.4,
        0.4,
        0.5,
        0.5,
    ]
    assert MultiStep(steps={0.5: 1.0})(0.4, 0.9) == 0.0


@pytest.mark.parametrize(
    "steps", [{}, {0.0: 0.5}, {0.0: 0.9, 0.5: 0.8, 0.9: 1.0}, {0.5: 0.5, 0.4: 1.0}, {0.5: 1.0, 1.5: 1.0}, {1.2: 1.0}]
)
def test_steps_that_never_end_or_fall_or_outlast_the_fine_tuning_are_refused(steps: dict[float, float]) -> None:
    with pytest.raises(ValueError, match="steps must"):
        MultiStep(steps=steps)
