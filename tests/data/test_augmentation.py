"""Random changes of training images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from src.contracts import Augmentation, InputError
from src.data.augmentation import Affine, Flip, InOrder, Mixed, ShiftedCrop, Torchvision

ALL = {
    "flip": Flip(),
    "shifted_crop": ShiftedCrop(pixels=2),
    "affine": Affine(degrees=15, scale=[0.9, 1.1], shift=0.1),
    "rand_augment": Torchvision(name="RandAugment", num_ops=3, magnitude=15),
    "in_order": InOrder(steps=[Flip(), ShiftedCrop(pixels=1)]),
}
KEEPING = [name for name in ALL if name != "rand_augment"]  # its colours and its empty corners are new values
EACH = pytest.mark.parametrize("augmentation", ALL.values(), ids=ALL.keys())


def drawn(count: int, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@EACH
@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (4, 1, 8, 12), (1, 3, 8, 8)])
def test_the_shape_is_kept(augmentation: Augmentation, shape: tuple[int, int, int, int]) -> None:
    assert augmentation(drawn(*shape), seeded()).shape == shape


@EACH
def test_the_same_generator_seed_gives_the_same_result_and_another_seed_another(augmentation: Augmentation) -> None:
    images = drawn(16)
    first, again, other = (augmentation(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@EACH
def test_images_are_changed_but_not_in_place(augmentation: Augmentation) -> None:
    images = drawn(16)
    changed = augmentation(images, seeded())
    assert torch.equal(images, drawn(16))
    assert not torch.equal(changed.float(), images.float())


@pytest.mark.parametrize("name", KEEPING)
def test_no_value_leaves_the_range_of_the_images(name: str) -> None:
    images = drawn(16) // 4 + 50
    changed = ALL[name](images, seeded()).float()
    assert float(changed.min()) >= float(images.min()) - 1e-3
    assert float(changed.max()) <= float(images.max()) + 1e-3


@EACH
def test_the_global_generator_is_left_alone(augmentation: Augmentation) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    augmentation(drawn(4), seeded())
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("augmentation", [ALL["flip"], ALL["shifted_crop"]], ids=["flip", "shifted_crop"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_moving_pixels_keeps_their_type(augmentation: Augmentation, dtype: torch.dtype) -> None:
    whole, floats = augmentation(drawn(8), seeded()), augmentation(drawn(8).to(dtype), seeded())
    assert floats.dtype == dtype
    assert torch.equal(whole.float(), floats.float())


def test_interpolating_gives_floats() -> None:
    assert ALL["affine"](drawn(4), seeded()).dtype == torch.float32


# Flip ---------------------------------------------------------------------------------------------


def test_four_pixels_are_mirrored_left_to_right() -> None:
    image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    found = {tuple(Flip()(image, seeded(seed)).flatten().tolist()) for seed in range(20)}
    assert found == {(1, 2, 3, 4), (2, 1, 4, 3)}


def test_about_half_of_the_images_are_flipped() -> None:
    images = drawn(4000, 1, 2, 4)
    changed = Flip()(images, seeded())
    flipped = (changed == images.flip(3)).flatten(1).all(1)
    kept = (changed == images).flatten(1).all(1)
    assert bool((flipped | kept).all())
    assert 0.45 < float(flipped.float().mean()) < 0.55


# ShiftedCrop --------------------------------------------------------------------------------------


def crops(image: np.ndarray, pixels: int) -> dict[tuple[int, int], np.ndarray]:
    """Every crop that an image can become, one shift at a time, edges mirrored without repeating the border."""
    channels, height, width = image.shape

    def mirrored(at: int, side: int) -> int:
        at = abs(at)
        return at if at < side else 2 * (side - 1) - at

    found = {}
    for down in range(-pixels, pixels + 1):
        for right in range(-pixels, pixels + 1):
            crop = np.empty_like(image)
            for row in range(height):
                for column in range(width):
                    crop[:, row, column] = image[:, mirrored(row + down, height), mirrored(column + right, width)]
            found[down, right] = crop
    assert channels == len(crop)
    return found


def test_each_image_becomes_one_of_its_crops_and_every_shift_occurs() -> None:
    images = drawn(120, 2, 5, 6)
    changed = ShiftedCrop(pixels=1)(images, seeded()).numpy()
    shifts = []
    for image, found in zip(images.numpy(), changed, strict=True):
        fitting = [shift for shift, crop in crops(image, 1).items() if np.array_equal(crop, found)]
        assert len(fitting) == 1
        shifts += fitting
    assert set(shifts) == {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}


def test_the_largest_shift_is_the_configured_one() -> None:
    images = drawn(60, 1, 8, 8)
    changed = ShiftedCrop(pixels=3)(images, seeded()).numpy()
    shifts = [
        next(shift for shift, crop in crops(image, 3).items() if np.array_equal(crop, found))
        for image, found in zip(images.numpy(), changed, strict=True)
    ]
    assert {abs(down) for down, _ in shifts} == {0, 1, 2, 3}
    assert {abs(right) for _, right in shifts} == {0, 1, 2, 3}


def test_a_shift_of_no_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="pixels must be at least 1, and is 0"):
        ShiftedCrop(pixels=0)


# Affine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (2, 1, 6, 10)])
def test_no_turn_no_scale_and_no_shift_leave_images_as_they_are(shape: tuple[int, int, int, int]) -> None:
    images = drawn(*shape)
    changed = Affine(degrees=0, scale=[1, 1], shift=0)(images, seeded())
    torch.testing.assert_close(changed, images.float(), rtol=0, atol=1e-3)


def test_a_scale_above_one_magnifies() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[:, :, 3:5, 3:5] = 1
    larger = Affine(degrees=0, scale=[2, 2], shift=0)(image, seeded())
    smaller = Affine(degrees=0, scale=[0.5, 0.5], shift=0)(image, seeded())
    assert float(larger.sum()) == pytest.approx(4 * float(image.sum()), rel=0.01)
    assert float(smaller.sum()) == pytest.approx(float(image.sum()) / 4, rel=0.01)


def slow_affine(image: np.ndarray, angle: float, zoom: float, moves: tuple[float, float]) -> np.ndarray:
    """Compute each output pixel from its place before rotating, scaling and shifting: bilinear, edges repeated."""
    _, side, _ = image.shape
    result = np.empty(image.shape, np.float64)
    for row in range(side):
        for column in range(side):
            x, y = column - (side - 1) / 2, row - (side - 1) / 2
            from_x = (math.cos(angle) * x - math.sin(angle) * y) / zoom + moves[0] * side + (side - 1) / 2
            from_y = (math.sin(angle) * x + math.cos(angle) * y) / zoom + moves[1] * side + (side - 1) / 2
            from_x, from_y = (min(max(at, 0), side - 1) for at in (from_x, from_y))
            left, top = math.floor(from_x), math.floor(from_y)
            right, low = min(left + 1, side - 1), min(top + 1, side - 1)
            u, v = from_x - left, from_y - top
            result[:, row, column] = (1 - v) * ((1 - u) * image[:, top, left] + u * image[:, top, right]) + v * (
                (1 - u) * image[:, low, left] + u * image[:, low, right]
            )
    return result


def test_turned_scaled_and_moved_images_equal_a_pixel_by_pixel_computation() -> None:
    degrees, scale, shift = 30.0, [0.7, 1.4], 0.15
    images = drawn(6, 2, 9, 9)
    changed = Affine(degrees=degrees, scale=scale, shift=shift)(images, seeded()).numpy()
    turns, zooms, across, down = torch.rand(4, 6, generator=seeded()).double().numpy()
    for at in range(6):
        expected = slow_affine(
            images[at].double().numpy(),
            math.radians((2 * turns[at] - 1) * degrees),
            scale[0] + zooms[at] * (scale[1] - scale[0]),
            ((2 * across[at] - 1) * shift, (2 * down[at] - 1) * shift),
        )
        np.testing.assert_allclose(changed[at], expected, atol=0.05)


@pytest.mark.parametrize("scale", [[1.1, 0.9], [0, 1], [1], [1, 1, 1]])
def test_a_scale_that_is_no_range_is_refused(scale: list[float]) -> None:
    with pytest.raises(ValueError, match="scale must be a smallest and a largest magnification"):
        Affine(degrees=0, scale=scale, shift=0)


# InOrder ------------------------------------------------------------------------------------------


def test_one_step_follows_the_other_with_the_same_generator() -> None:
    images, generator = drawn(16), seeded()
    expected = ShiftedCrop(pixels=2)(Flip()(images, generator), generator)
    assert torch.equal(InOrder(steps=[Flip(), ShiftedCrop(pixels=2)])(images, seeded()), expected)


def test_no_step_changes_nothing() -> None:
    assert torch.equal(InOrder(steps=[])(drawn(4), seeded()), drawn(4))


# torchvision's -----------------------------------------------------------------------------------


def test_each_image_of_a_batch_is_changed_by_a_draw_of_its_own() -> None:
    same = drawn(1).expand(20, -1, -1, -1)
    found = Torchvision(name="RandomHorizontalFlip", p=0.5)(same, seeded())
    flipped = [bool((image == same[0].flip(2)).all()) for image in found]
    assert 0 < sum(flipped) < 20
    assert all(flip or bool((image == same[0]).all()) for image, flip in zip(found, flipped, strict=True))


def test_a_transform_that_torchvision_does_not_have_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no transform 'RandAugmentt'; did you mean RandAugment"):
        Torchvision(name="RandAugmentt")


def test_settings_that_a_transform_does_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match=r"RandAugment does not take \{'operations': 2\}"):
        Torchvision(name="RandAugment", operations=2)


def test_a_transform_that_changes_the_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"RandomResizedCrop gives images of 4x4, and they must stay 8x8"):
        Torchvision(name="RandomResizedCrop", size=[4, 4])(drawn(2), seeded())


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_mixed_labels_are_the_shares_of_the_mixed_images(name: str) -> None:
    """A black and a white image: the mean brightness of a mixture is the share of its white label."""
    images = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 255.0)]).to(torch.uint8)
    before = torch.get_rng_state()
    for seed in range(5):
        found, shares = Mixed(name=name, alpha=1.0)(images, torch.tensor([0, 1]), 2, seeded(seed))
        assert torch.allclose(found.mean((1, 2, 3)) / 255, shares[:, 1], atol=1e-5)
        assert torch.allclose(shares.sum(1), torch.ones(2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "alpha", "message"), [("Mixup", 1.0, "MixUp or CutMix"), ("MixUp", 0, "more than 0")])
def test_a_mixture_that_cannot_be_is_refused(name: str, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixed(name=name, alpha=alpha)
