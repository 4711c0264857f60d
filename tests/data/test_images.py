"""The base of all image data sets: checked reading, a fixed split, a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from src.contracts import ImageSet, InputError
from src.data.images import ImageData, checksum, data_root, validation_indices

GROUPS = st.lists(st.integers(0, 12), min_size=2, max_size=80).map(torch.tensor)
SHARES = st.floats(0.01, 0.99)


def drawn(count: int, *, seed: int, classes: int = 3, channels: int = 2) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, channels, 4, 5), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % classes)


class Frames(ImageData):
    """A user's data set: frames in memory, some of which are in one group."""

    name = "frames"

    def __init__(
        self, train: ImageSet, test: ImageSet, *, together: int = 1, classes: Sequence[str] = "abc", **settings: Any
    ) -> None:
        defaults = {
            "root": "data",
            "sha256": None,
            "validation_share": 0.2,
            "calibration_images": 10,
            "split_seed": 0,
            "mean": None,
            "std": None,
            "augmentation": None,
        }
        super().__init__(**{**defaults, **settings})
        self.parts, self.together, self.classes = (train, test), together, classes

    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        return (*self.parts, self.classes)

    def groups(self, train: ImageSet) -> Tensor:
        return torch.arange(len(train)) // self.together


def frames(**settings: Any) -> Frames:
    return Frames(drawn(60, seed=1), drawn(20, seed=2), **settings)


def rows(images: Tensor) -> set[bytes]:
    """The images as a Python set, so that sets of images can be compared."""
    return {image.numpy().tobytes() for image in images}


# Splitting ----------------------------------------------------------------------------------------


@given(GROUPS, SHARES, st.integers(0, 100))
def test_the_split_is_disjoint_complete_and_sorted(groups: Tensor, share: float, seed: int) -> None:
    train, validation = validation_indices(groups, share, seed)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(len(groups)))
    assert train.tolist() == sorted(train.tolist())
    assert validation.tolist() == sorted(validation.tolist())


@given(GROUPS, SHARES, st.integers(0, 100))
def test_no_group_is_divided(groups: Tensor, share: float, seed: int) -> None:
    train, validation = validation_indices(groups, share, seed)
    assert not set(groups[train].tolist()) & set(groups[validation].tolist())


@given(GROUPS, SHARES, st.integers(0, 100))
def test_no_more_than_the_share_validates_unless_one_group_is_larger(groups: Tensor, share: float, seed: int) -> None:
    _, validation = validation_indices(groups, share, seed)
    assert len(validation) >= 1
    assert len(validation) <= max(1, round(share * len(groups))) or len(groups[validation].unique()) == 1


@pytest.mark.parametrize(("share", "validates"), [(0.1, 10), (0.25, 25), (0.001, 1), (0.999, 100)])
def test_single_images_are_split_to_the_image(share: float, validates: int) -> None:
    train, validation = validation_indices(torch.arange(100), share, 0)
    assert (len(train), len(validation)) == (100 - validates, validates)


def test_the_split_follows_from_its_seed_alone() -> None:
    groups = torch.arange(50) // 2
    first, again, other = (validation_indices(groups, 0.2, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_splitting_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    frames().load()
    assert torch.equal(torch.rand(3), expected)


# Loading ------------------------------------------------------------------------------------------


def test_training_and_validation_images_are_the_published_training_images() -> None:
    splits = frames(together=3).load()
    assert len(splits.train) + len(splits.validation) == 60
    assert rows(splits.train.images) | rows(splits.validation.images) == rows(drawn(60, seed=1).images)
    assert rows(splits.test.images) == rows(drawn(20, seed=2).images)
    assert not rows(splits.train.images) & rows(splits.validation.images)


def test_frames_that_belong_together_stay_together() -> None:
    published = drawn(60, seed=1)
    validating = rows(frames(together=5).load().validation.images)
    for track in published.images.split(5):
        assert len(rows(track) & validating) in (0, 5)
    assert len(validating) == 10  # a fifth of 60 is 12: two whole tracks of 5


def test_labels_follow_their_images() -> None:
    published = drawn(60, seed=1)
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(*vars(published).values(), strict=True)}
    splits = frames().load()
    for part in (splits.train, splits.validation, splits.calibration):
        assert [label_of[image.numpy().tobytes()] for image in part.images] == part.labels.tolist()


def test_calibration_images_come_from_the_training_split_only() -> None:
    splits = frames(calibration_images=30).load()
    assert len(rows(splits.calibration.images)) == 30
    assert rows(splits.calibration.images) <= rows(splits.train.images)
    assert not rows(splits.calibration.images) & rows(splits.validation.images)


def test_calibration_images_are_a_mix_and_not_the_first_ones() -> None:
    splits = frames(calibration_images=10).load()
    assert not torch.equal(splits.calibration.images, splits.train.images[:10])
    assert torch.equal(splits.calibration.images, frames(calibration_images=10).load().calibration.images)


def test_no_more_images_calibrate_than_train() -> None:
    splits = frames(calibration_images=1000).load()
    assert len(splits.calibration) == len(splits.train)


def test_the_split_does_not_move_with_the_number_of_calibration_images() -> None:
    few, many = (frames(calibration_images=count).load() for count in (1, 40))
    assert torch.equal(few.validation.images, many.validation.images)


def test_means_and_deviations_are_those_of_the_training_split() -> None:
    splits = frames().load()
    pixels = splits.train.images.numpy().astype(np.float64) / 255
    assert splits.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=5.1e-5)
    assert splits.std == pytest.approx(pixels.std((0, 2, 3)), abs=5.1e-5)


def test_a_channel_of_one_value_has_a_deviation_that_can_divide() -> None:
    flat = ImageSet(torch.full((20, 1, 4, 4), 7, dtype=torch.uint8), torch.arange(20) % 3)
    assert Frames(flat, flat).load().std[0] > 0


def test_given_means_and_deviations_are_taken_as_they_are() -> None:
    splits = frames(mean=[0.5, 0.25], std=[0.125, 1]).load()
    assert (splits.mean, splits.std) == ((0.5, 0.25), (0.125, 1))


def test_the_image_shape_is_channels_height_width() -> None:
    assert frames().load().image_shape == (2, 4, 5)


def test_published_images_are_brought_to_a_size_and_stay_the_same_data() -> None:
    parts = drawn(60, seed=1, channels=1), drawn(20, seed=2, channels=1)
    own, padded = Frames(*parts).load(), Frames(*parts, height=8, width=16, fit="pad").load()
    assert padded.image_shape == (1, 8, 16)
    assert torch.equal(padded.train.images[:, :, 2:6, 5:10], own.train.images)
    assert int(padded.train.images.sum()) == int(own.train.images.sum())
    assert padded.checksum == own.checksum
    assert padded.preparation.fit == "pad"


def test_a_size_below_eight_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="height must be at least 8 pixels, and is 7"):
        frames(height=7)


# Checking -----------------------------------------------------------------------------------------


def test_the_checksum_is_sha256_over_shapes_pixels_and_labels() -> None:
    parts = (drawn(4, seed=1), drawn(2, seed=2))
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(tuple(part.images.shape)).encode())
        digest.update(part.images.numpy().tobytes())
        digest.update(part.labels.numpy().astype("<i8").tobytes())
    assert checksum(*parts) == digest.hexdigest()
    assert frames().load().checksum == checksum(drawn(60, seed=1), drawn(20, seed=2))


def test_one_changed_pixel_or_label_or_order_changes_the_checksum() -> None:
    part = drawn(4, seed=1)
    pixel, label = part.images.clone(), part.labels.clone()
    pixel[3, 1, 3, 4] ^= 1
    label[0] = 2
    sums = {
        checksum(part, part.select(torch.tensor([0]))),
        checksum(part.select(torch.tensor([0])), part),
        checksum(part),
        checksum(ImageSet(pixel, part.labels)),
        checksum(ImageSet(part.images, label)),
        checksum(part.select(torch.tensor([1, 0, 2, 3]))),
        checksum(ImageSet(part.images.view(4, 2, 5, 4), part.labels)),
    }
    assert len(sums) == 7


def test_the_checksum_does_not_depend_on_how_images_lie_in_memory() -> None:
    part = drawn(4, seed=1)
    scattered = ImageSet(part.images.to(memory_format=torch.channels_last), part.labels)
    assert checksum(scattered) == checksum(part)


def test_the_right_checksum_is_accepted() -> None:
    expected = checksum(drawn(60, seed=1), drawn(20, seed=2))
    assert frames(sha256=expected).load().checksum == expected


def test_a_wrong_checksum_is_refused_and_both_are_named() -> None:
    found = checksum(drawn(60, seed=1), drawn(20, seed=2))
    with pytest.raises(InputError, match="damaged or another version") as caught:
        frames(sha256="0123456789abcdef" * 4).load()
    assert "frames" in str(caught.value)
    assert found[:12] in str(caught.value)
    assert "0123456789ab" in str(caught.value)
    assert "data.sha256=null" in str(caught.value)


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("which", ["training", "test"])
def test_a_label_outside_the_range_is_refused(label: int, which: str) -> None:
    parts = {"training": drawn(60, seed=1), "test": drawn(20, seed=2)}
    parts[which].labels[7] = label
    with pytest.raises(InputError, match=f"frames: a label of the {which} set is outside 0 … 2"):
        Frames(parts["training"], parts["test"]).load()


@pytest.mark.parametrize("which", ["training", "test"])
def test_an_empty_set_is_refused(which: str) -> None:
    parts = {"training": drawn(60, seed=1), "test": drawn(20, seed=2), which: drawn(0, seed=3)}
    with pytest.raises(InputError, match=f"the {which} set is empty"):
        Frames(parts["training"], parts["test"]).load()


def test_training_and_test_images_of_two_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"training images are \(2, 4, 5\) and test images \(1, 4, 5\)"):
        Frames(drawn(60, seed=1), drawn(20, seed=2, channels=1)).load()


def test_a_validation_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(InputError, match="takes every training image"):
        frames(together=60).load()


def test_one_mean_for_each_channel_is_needed() -> None:
    with pytest.raises(InputError, match=r"need 2 values, one a channel, and have 3 and 3"):
        frames(mean=[0.5] * 3, std=[0.2] * 3).load()


def test_a_mean_without_a_deviation_is_refused() -> None:
    with pytest.raises(ValueError, match="mean and std come together"):
        frames(mean=[0.5, 0.5])


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1])
def test_a_validation_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"validation_share must be in \(0, 1\)"):
        frames(validation_share=share)


def test_no_calibration_image_is_refused() -> None:
    with pytest.raises(ValueError, match="calibration_images must be at least 1, and is 0"):
        frames(calibration_images=0)


def test_one_label_for_each_image_is_needed() -> None:
    with pytest.raises(ValueError, match="4 images have 3 labels"):
        ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


# Where data lies ----------------------------------------------------------------------------------


def test_dnnc_data_names_the_folder_if_the_user_names_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_root(None) == Path("data")
    monkeypatch.setenv("DNNC_DATA", str(tmp_path))
    assert data_root(None) == tmp_path
    assert frames(root=None).root == tmp_path


@pytest.mark.parametrize("named", ["data", "elsewhere"])
def test_a_folder_that_was_named_is_not_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str) -> None:
    monkeypatch.setenv("DNNC_DATA", str(tmp_path))
    assert frames(root=named).root == Path(named)


def test_an_empty_dnnc_data_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNNC_DATA", "")
    assert data_root(None) == Path("data")


def test_the_tilde_is_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_root("~/images") == tmp_path / "images"
