"""scikit-learn's digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from sklearn.datasets import load_digits

from src.command.composition import composed
from src.data.digits import Digits


def digits(**settings: Any) -> Digits:
    return instantiate({**composed(["data=digits"])[0]["data"], **settings}, _convert_="all")


def test_the_published_pixels_have_the_configured_checksum() -> None:
    source = digits()
    assert source.load().checksum == source.sha256


def test_all_1797_digits_are_split_over_train_validation_and_test() -> None:
    splits = digits().load()
    assert len(splits.test) == round(0.2 * 1797)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 1797
    parts = torch.cat([splits.train.images, splits.validation.images, splits.test.images])
    published = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(image.numpy().tobytes() for image in parts) == sorted(image.tobytes() for image in published)


def test_sixteen_grey_levels_are_spread_over_a_byte() -> None:
    splits = digits().load()
    assert splits.image_shape == (1, 8, 8)
    assert splits.train.images.unique().tolist() == [round(level * 255 / 16) for level in range(17)]


def test_labels_are_those_of_the_images() -> None:
    published = load_digits()
    label_of = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): int(label)
        for image, label in zip(published.images, published.target, strict=True)
    }
    test = digits().load().test
    assert [label_of[image.numpy().tobytes()] for image in test.images] == test.labels.tolist()


def test_the_configured_mean_and_deviation_are_the_measured_ones() -> None:
    source, measured = digits(), digits(mean=None, std=None).load()
    assert source.mean == pytest.approx(measured.mean, abs=0.01)
    assert source.std == pytest.approx(measured.std, abs=0.01)


def test_the_test_set_follows_from_the_split_seed() -> None:
    first, again, other = (digits(split_seed=seed, sha256=None).load().test for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_test_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(Exception, match=r"test_share must be in \(0, 1\)") as caught:
        digits(test_share=share)
    assert isinstance(caught.value.__cause__ or caught.value, ValueError)
