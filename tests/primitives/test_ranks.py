"""Ranks are counted by hand, and against the slow sum of squares."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.primitives.ranks import Energy, Fixed, Rank, Share


def test_ranks_by_hand() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])
    assert [Energy(energy=e)(values) for e in (0.5, 0.64, 0.65, 0.93, 1.0)] == [1, 1, 2, 3, 3]
    assert [Fixed(rank=r)(values) for r in (2, 9)] == [2, 4]
    assert [Share(share=s)(values) for s in (0.1, 0.5, 1.0)] == [1, 2, 4]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.floats(0.01, 0.999))
def test_energy_is_the_least_rank_whose_squares_are_enough(values: list[int], energy: float) -> None:
    values = sorted(values, reverse=True)
    squares = [value**2 for value in values]
    enough = [rank for rank in range(1, len(values) + 1) if sum(squares[:rank]) >= energy * sum(squares) * (1 - 1e-12)]
    assert Energy(energy=energy)(torch.tensor(values)) == enough[0]


@given(st.integers(1, 30), st.integers(1, 40), st.floats(0.01, 1))
def test_every_rank_lies_between_one_and_that_of_the_layer(length: int, rank: int, share: float) -> None:
    values = torch.ones(length)
    assert 1 <= Fixed(rank=rank)(values) <= length
    assert 1 <= Share(share=share)(values) <= length


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Energy(energy=0.0), "energy must be in"),
        (lambda: Fixed(rank=0), "rank must be"),
        (lambda: Share(share=1.5), "share must be in"),
    ],
)
def test_ranks_that_make_no_sense_are_refused(build: Callable[[], Rank], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()
