"""Parts with a share of each class."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from src.contracts import ImageSet
from src.data.splitting import Looks, stratified

COUNTS = st.lists(st.integers(1, 40), min_size=2, max_size=6)


def labels_of(counts: list[int]) -> torch.Tensor:
    return torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])


@given(COUNTS, st.floats(0.05, 0.6), st.integers(0, 20))
def test_each_class_gives_its_share_to_one_image_and_never_its_last(counts: list[int], share: float, seed: int) -> None:
    labels = labels_of(counts)
    rest, chosen = stratified(labels, torch.arange(len(labels)), share, seed, least=2)
    assert sorted([*rest.tolist(), *chosen.tolist()]) == list(range(len(labels)))
    found = torch.bincount(labels[chosen], minlength=len(counts)).tolist()
    for count, taken in zip(counts, found, strict=True):
        assert taken <= count - 1
        assert abs(taken - share * count) <= 1 or taken == min(1, count - 1)


def test_a_rare_class_is_in_both_parts() -> None:
    labels = labels_of([1000, 3])
    _, chosen = stratified(labels, torch.arange(1003), 0.1, 0, least=2)
    assert torch.bincount(labels[chosen]).tolist() == [100, 1]


def test_a_class_below_the_least_gives_nothing() -> None:
    labels = labels_of([30, 2])
    _, chosen = stratified(labels, torch.arange(32), 0.2, 0, least=3)
    assert torch.bincount(labels[chosen], minlength=2).tolist()[1] == 0


@given(st.integers(0, 50))
def test_no_group_is_divided(seed: int) -> None:
    labels, groups = labels_of([12, 12]), torch.arange(24) // 3
    rest, chosen = stratified(labels, groups, 0.25, seed, least=2)
    assert not set(groups[rest].tolist()) & set(groups[chosen].tolist())
    assert torch.bincount(labels[chosen]).tolist() == [3, 3]


def test_equal_images_have_the_number_of_the_first_and_images_of_one_colour_their_own() -> None:
    values = torch.tensor([5, 7, 5, 9, 7, 8, 8], dtype=torch.uint8)
    images = values.view(7, 1, 1, 1).repeat(1, 3, 4, 4)
    images[:5, :, 0, 0] = 0
    assert Looks.at(ImageSet(images, torch.zeros(7))).copies().tolist() == [0, 1, 0, 3, 1, 5, 6]
