"""Which weights stay."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.primitives.masks import keep_largest, kept, sparsity

# Few distinct values, so that most lists hold ties.
SCORES = st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 0.5000001, 2.0, 1e30, math.inf]), min_size=1)


def ranked(scores: list[float], keep: int) -> list[bool]:
    """The slow closed form: sort by score, then by index, and take the first ``keep``."""
    stay = sorted(range(len(scores)), key=lambda at: (-scores[at], at))[:keep]
    return [at in stay for at in range(len(scores))]


def test_the_two_largest_of_four_stay() -> None:
    assert keep_largest(torch.tensor([0.1, 0.4, 0.3, 0.2]), 2).tolist() == [False, True, True, False]


def test_of_equal_scores_the_lower_index_stays() -> None:
    assert keep_largest(torch.tensor([2.0, 1.0, 2.0, 2.0]), 2).tolist() == [True, False, True, False]


def test_ties_below_the_threshold_do_not_take_the_place_of_larger_scores() -> None:
    assert keep_largest(torch.tensor([1.0, 1.0, 3.0, 1.0]), 2).tolist() == [True, False, True, False]


def test_equal_scores_everywhere_still_give_the_exact_count() -> None:
    assert keep_largest(torch.zeros(1000), 137).nonzero().flatten().tolist() == list(range(137))


def test_the_sign_of_a_score_counts() -> None:
    assert keep_largest(torch.tensor([-3.0, -1.0, -2.0, -4.0]), 1).tolist() == [False, True, False, False]


@given(SCORES, st.data())
def test_masks_equal_a_full_sort(scores: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(scores)))
    mask = keep_largest(torch.tensor(scores, dtype=torch.float64), keep)
    assert mask.tolist() == ranked(scores, keep)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 2**31))
def test_survivors_are_at_least_victims(count: int, values: int, seed: int) -> None:
    scores = torch.randint(values, (count,), generator=torch.Generator().manual_seed(seed)).float()
    mask = keep_largest(scores, max(1, count // 2))
    assert int(mask.sum()) == max(1, count // 2)
    assert mask.all() or scores[mask].min() >= scores[~mask].max()


@given(SCORES, st.data())
def test_a_smaller_mask_lies_within_a_larger_one(scores: list[float], data: st.DataObject) -> None:
    fewer, more = sorted(data.draw(st.integers(0, len(scores))) for _ in range(2))
    small, large = (keep_largest(torch.tensor(scores), keep) for keep in (fewer, more))
    assert not (small & ~large).any()


def test_the_mask_has_the_shape_of_the_scores() -> None:
    mask = keep_largest(torch.arange(24.0).view(2, 3, 2, 2), 5)
    assert mask.shape == (2, 3, 2, 2)
    assert mask.dtype == torch.bool
    assert mask.flatten().tolist() == [False] * 19 + [True] * 5


def test_scores_that_do_not_lie_in_order_in_memory_keep_their_places() -> None:
    scores = torch.tensor([[1.0, 4.0], [3.0, 2.0]]).t()  # [[1, 3], [4, 2]]
    assert keep_largest(scores, 2).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_float_type_is_ranked(dtype: torch.dtype) -> None:
    assert keep_largest(torch.tensor([3, 1, 2, 2], dtype=dtype), 2).tolist() == [True, False, True, False]


@pytest.mark.parametrize("keep", [0, 4])
def test_nothing_or_everything_can_stay(keep: int) -> None:
    assert keep_largest(torch.tensor([3.0, 1.0, 2.0, 2.0]), keep).tolist() == [keep == 4] * 4


@pytest.mark.parametrize("keep", [-1, 5])
def test_a_count_out_of_range_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match=f"keep must be in 0 … 4, and is {keep}"):
        keep_largest(torch.ones(4), keep)


@pytest.mark.parametrize("keep", [0, 2, 4])
def test_nan_is_refused(keep: int) -> None:
    with pytest.raises(ValueError, match="NaN"):
        keep_largest(torch.tensor([1.0, math.nan, 2.0, 3.0]), keep)


def test_the_scores_are_left_as_they_were() -> None:
    scores = torch.tensor([0.1, 0.4, 0.3, 0.2], requires_grad=True)
    mask = keep_largest(scores, 2)
    assert scores.tolist() == pytest.approx([0.1, 0.4, 0.3, 0.2])
    assert not mask.requires_grad


def test_sparsity_is_the_share_of_zeros_over_all_masks() -> None:
    masks = {"a": torch.tensor([True, False, False, True]), "b": torch.zeros(2, 2, dtype=torch.bool)}
    assert sparsity(masks) == 6 / 8


def test_sparsity_of_full_masks_is_zero() -> None:
    assert sparsity({"a": torch.ones(4, dtype=torch.bool)}) == 0


@given(st.integers(1, 10**7), st.floats(0, 1, exclude_max=True))
def test_as_many_go_as_is_nearest_to_the_sparsity(count: int, share: float) -> None:
    stay = kept(count, share)
    assert 1 <= stay <= count
    assert stay == 1 or abs((count - stay) - share * count) <= 0.5


@pytest.mark.parametrize(
    ("count", "share", "stay"), [(4, 0.0, 4), (4, 0.5, 2), (4, 0.25, 3), (4, 0.999, 1), (1, 0.9, 1)]
)
def test_hand_counted_survivors(count: int, share: float, stay: int) -> None:
    assert kept(count, share) == stay
