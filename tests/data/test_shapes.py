"""Drawn shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from src.data.shapes import CLASSES, Shapes, draw


def shapes(**settings: Any) -> Shapes:
    defaults = {
        "train_images": 40,
        "test_images": 20,
        "side": 16,
        "draw_seed": 0,
        "root": "data",
        "sha256": None,
        "validation_share": 0.1,
        "calibration_images": 10,
        "split_seed": 0,
        "mean": None,
        "std": None,
        "augmentation": None,
    }
    return Shapes(**{**defaults, **settings})


def test_the_same_seed_draws_the_same_pixels_and_another_seed_others() -> None:
    first, again, other = (shapes(draw_seed=seed).load().checksum for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_global_generator_neither_matters_nor_moves() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = shapes().load().checksum
    assert torch.equal(torch.rand(2), expected)
    assert shapes().load().checksum == first


def test_images_have_three_channels_and_the_configured_side() -> None:
    splits = shapes(side=12).load()
    assert splits.image_shape == (3, 12, 12)
    assert splits.train.images.dtype == torch.uint8


def test_every_class_is_drawn_equally_often() -> None:
    splits = shapes().load()
    assert splits.classes == CLASSES
    assert splits.test.labels.bincount().tolist() == [2] * 10
    both = torch.cat([splits.train.labels, splits.validation.labels])
    assert both.bincount().tolist() == [4] * 10


def test_no_image_is_drawn_twice() -> None:
    splits = shapes(train_images=200, test_images=200).load()
    images = torch.cat([splits.train.images, splits.validation.images, splits.test.images])
    assert len({image.numpy().tobytes() for image in images}) == 400


def test_a_disc_is_filled_and_a_ring_and_a_frame_are_hollow() -> None:
    """The centre of a shape is within 0.3 of the image's centre; if it is filled, it differs from the corners."""
    centre_differs = []
    for name in ("disc", "square", "ring", "frame"):
        labels = torch.full((64,), CLASSES.index(name))
        images = draw(labels, 32, torch.Generator().manual_seed(3)).float()
        centre, corner = images[:, :, 14:18, 14:18].mean((2, 3)), images[:, :, :3, :3].mean((2, 3))
        centre_differs.append(float((centre - corner).abs().amax(1).gt(60).float().mean()))
    assert min(centre_differs[:2]) > 0.9
    assert max(centre_differs[2:]) < 0.7


def test_ink_can_be_told_from_the_ground() -> None:
    images = draw(torch.zeros(200, dtype=torch.int64), 32, torch.Generator().manual_seed(0)).float() / 255
    centre, corner = images[:, :, 14:18, 14:18].mean((2, 3)), images[:, :, :3, :3].mean((2, 3))
    told = (centre - corner).abs().amax(1) > 0.2
    assert float(told.float().mean()) > 0.95


@pytest.mark.parametrize("settings", [{"train_images": 9}, {"test_images": 9}, {"side": 7}])
def test_too_few_or_too_small_images_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 10, and side at least 8"):
        shapes(**settings)
