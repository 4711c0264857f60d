"""Batches whose order follows from seed and epoch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from src.contracts import DataSplits, ImageSet
from src.data.augmentation import Flip, Mixed
from src.data.batches import TensorBatches, evaluation_batches, mixed_seed

MEAN, STD = (0.25, 0.5), (0.5, 0.125)


def numbered(count: int) -> ImageSet:
    """Image ``n`` has label ``n`` and pixels ``n``, ``n + 1``, …, so that all images differ."""
    pixels = torch.arange(count)[:, None] + torch.arange(2 * 2 * 3)
    return ImageSet(pixels.to(torch.uint8).view(count, 2, 2, 3), torch.arange(count))


def batches(count: int = 23, batch_size: int = 5, **settings: Any) -> TensorBatches:
    return TensorBatches(numbered(count), batch_size, mean=MEAN, std=STD, **settings)


def labels(of: TensorBatches, epoch: int = 0) -> list[int]:
    of.set_epoch(epoch)
    return torch.cat([labels for _, labels in of]).tolist()


def pixels(of: TensorBatches, epoch: int = 0) -> Tensor:
    of.set_epoch(epoch)
    return torch.cat([images for images, _ in of])


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(("count", "batch_size"), [(23, 5), (20, 5), (3, 5), (1, 1)])
def test_every_image_comes_once_an_epoch(count: int, batch_size: int, seed: int | None) -> None:
    of = batches(count, batch_size, shuffle_seed=seed)
    for epoch in range(3):
        assert sorted(labels(of, epoch)) == list(range(count))


def test_without_a_seed_the_order_is_that_of_the_file() -> None:
    of = batches()
    assert labels(of, 0) == labels(of, 7) == list(range(23))


def test_the_order_differs_from_epoch_to_epoch_and_seed_to_seed() -> None:
    orders = [tuple(labels(batches(shuffle_seed=seed), epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert tuple(range(23)) not in orders


def test_the_order_repeats_for_the_same_seed_and_epoch_whatever_was_iterated_before() -> None:
    of = batches(shuffle_seed=4)
    first = [labels(of, epoch) for epoch in range(4)]
    torch.manual_seed(99)
    assert labels(batches(shuffle_seed=4), 3) == first[3]
    assert labels(of, 1) == first[1]


def test_an_epoch_that_was_broken_off_starts_anew() -> None:
    of = batches(shuffle_seed=4)
    whole = labels(of, 2)
    next(iter(of))
    assert labels(of, 2) == whole


def test_labels_stay_with_their_images() -> None:
    of = batches(shuffle_seed=1)
    for images, found in of:
        raw = images * torch.tensor(STD).view(2, 1, 1) * 255 + torch.tensor(MEAN).view(2, 1, 1) * 255
        assert raw[:, 0, 0, 0].round().int().tolist() == found.tolist()


def test_pixels_are_normalized_as_the_closed_form_says() -> None:
    images = numbered(23).images.double() / 255
    mean, std = (torch.tensor(of, dtype=torch.float64).view(1, 2, 1, 1) for of in (MEAN, STD))
    found = pixels(batches())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), (images - mean) / std, rtol=1e-6, atol=1e-6)


def test_normalized_training_images_have_mean_zero_and_deviation_one(splits: DataSplits) -> None:
    found = pixels(evaluation_batches(splits, splits.train, batch_size=10))
    assert found.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-3)
    assert found.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * 3, abs=1e-3)


def test_normalizing_leaves_the_set_as_it_was() -> None:
    images = numbered(23)
    of = TensorBatches(ImageSet(images.images.float(), images.labels), 5, mean=MEAN, std=STD)
    first = pixels(of)
    assert torch.equal(pixels(of), first)
    assert torch.equal(of.images, numbered(23).images.float())


@pytest.mark.parametrize(
    ("count", "batch_size", "drop_last", "sizes"),
    [
        (23, 5, False, [5, 5, 5, 5, 3]),
        (23, 5, True, [5, 5, 5, 5]),
        (20, 5, True, [5, 5, 5, 5]),
        (3, 5, True, [3]),
        (3, 5, False, [3]),
    ],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_are_full_but_for_a_last_one(
    count: int, batch_size: int, drop_last: bool, sizes: list[int], seed: int | None
) -> None:
    of = batches(count, batch_size, drop_last=drop_last, shuffle_seed=seed)
    assert [len(found) for _, found in of] == sizes
    assert len(of) == len(sizes)


def test_what_is_dropped_changes_from_epoch_to_epoch() -> None:
    of = batches(drop_last=True, shuffle_seed=0)
    dropped = {tuple(sorted(set(range(23)) - set(labels(of, epoch)))) for epoch in range(5)}
    assert len(dropped) == 5
    assert {len(images) for images in dropped} == {3}


def test_augmentation_comes_before_normalization_and_repeats_for_the_same_epoch() -> None:
    plain = batches(shuffle_seed=0)
    flipped = batches(shuffle_seed=0, augmentation=Flip())
    expected, found = pixels(plain, 2), pixels(flipped, 2)
    either = (found == expected).flatten(1).all(1) | (found == expected.flip(3)).flatten(1).all(1)
    assert bool(either.all())
    assert not torch.equal(found, expected)
    assert torch.equal(pixels(batches(shuffle_seed=0, augmentation=Flip()), 2), found)
    assert labels(flipped, 2) == labels(plain, 2)


def test_mixed_batches_repeat_for_the_same_epoch_and_have_labels_in_shares() -> None:
    mixed = batches(20, 5, shuffle_seed=3, mixing=Mixed(name="MixUp", alpha=1.0), classes=20)
    (first, shares), (again, _) = next(iter(mixed)), next(iter(mixed))
    assert torch.equal(first, again)
    assert shares.shape == (5, 20)
    assert torch.allclose(shares.sum(1), torch.ones(5))
    assert int((shares > 0).sum()) == 10  # two labels an image


def test_evaluation_batches_are_in_file_order_and_not_augmented(splits: DataSplits) -> None:
    of = evaluation_batches(splits, splits.test, batch_size=7)
    assert labels(of) == splits.test.labels.tolist()
    assert torch.equal(pixels(of), of.normalize(splits.test.images))


def test_neighbouring_seeds_and_epochs_do_not_meet() -> None:
    seeds = {mixed_seed(seed, epoch) for seed in range(60) for epoch in range(200)}
    assert len(seeds) == 60 * 200
    assert all(0 <= mixed_seed(seed, 3) < 2**63 for seed in (0, 2**31, 2**62))
