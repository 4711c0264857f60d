"""Images brought to one size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms
from PIL import Image
from torchvision.transforms import functional

from src.contracts import Preparation
from src.data.resizing import resized, resized_pixels


def white(width: int, height: int) -> Image.Image:
    return Image.new("L", (width, height), 255)


def box(image: Image.Image, background: int) -> tuple[int, int, int, int]:
    """The rows and columns at which something other than the background begins and ends."""
    rows, columns = np.nonzero(np.asarray(image) != background)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def test_letterbox_keeps_the_whole_image_and_its_proportions() -> None:
    found = resized(white(40, 20), (32, 16), Preparation(fit="letterbox", background=7))
    assert found.size == (16, 32)
    assert box(found, 7) == (12, 20, 0, 16)


def test_letterbox_enlarges_and_pad_does_not() -> None:
    larger, same = (resized(white(8, 4), (32, 32), Preparation(fit=fit)) for fit in ("letterbox", "pad"))
    assert box(larger, 0) == (8, 24, 0, 32)
    assert box(same, 0) == (14, 18, 12, 20)


def test_pad_makes_a_larger_image_fit() -> None:
    assert box(resized(white(64, 32), (32, 32), Preparation(fit="pad")), 0) == (8, 24, 0, 32)


def test_a_crop_fills_a_size_that_is_not_square() -> None:
    found = resized(white(100, 80), (16, 32), Preparation(crop=1.0))
    assert found.size == (32, 16)
    assert np.asarray(found).min() == 255


def test_images_in_memory_become_what_their_files_become() -> None:
    images = torch.randint(256, (3, 3, 9, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for how in (Preparation(), Preparation(fit="letterbox", background=3), Preparation("bicubic", 0.8)):
        found = resized_pixels(images, (8, 16), how)
        for at, image in enumerate(images):
            expected = resized(Image.fromarray(image.permute(1, 2, 0).numpy()), (8, 16), how)
            np.testing.assert_array_equal(found[at].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_images_of_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 2 channels cannot be resized"):
        resized_pixels(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), (8, 8), Preparation())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interpolation": "cubic"}, "interpolation must be one of nearest, box, bilinear"),
        ({"crop": 1.5}, r"crop must be in \(0, 1\] or null"),
        ({"fit": "squash"}, "fit must be letterbox, pad or null"),
        ({"fit": "pad", "crop": 0.5}, "give one of them"),
        ({"background": 256}, "background must be a grey from 0 to 255"),
        ({"pixel_range": (5, 5)}, "pixel_range must rise"),
    ],
)
def test_a_preparation_that_cannot_be_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preparation(**settings)


@pytest.mark.parametrize("shape", [(300, 200), (123, 457), (50, 50), (64, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_resized_and_cropped_exactly_as_torchvision_does(shape: tuple[int, int], interpolation: str) -> None:
    image = Image.effect_noise(shape, 80).convert("RGB")
    mode = torchvision.transforms.InterpolationMode(interpolation)
    expected = functional.center_crop(functional.resize(image, [int(56 / 0.875)], mode), [56, 56])
    assert resized(image, (56, 56), Preparation(interpolation, 0.875)).tobytes() == expected.tobytes()
