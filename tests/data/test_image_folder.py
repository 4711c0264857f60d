"""A user's own images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.contracts import ImageSet, InputError
from src.data import image_folder
from src.data.image_folder import ImageFolder, decode_images, decoded
from src.data.images import checksum


def folder(root: Path, **settings: Any) -> ImageFolder:
    defaults = {
        "test_share": 0.25,
        "side": 8,
        "channels": 3,
        "sha256": None,
        "validation_share": 0.2,
        "calibration_images": 5,
        "split_seed": 0,
        "mean": None,
        "std": None,
        "augmentation": None,
    }
    return ImageFolder(root=str(root), **{**defaults, **settings})


def write(path: Path, colour: tuple[int, int, int] | int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


def write_classes(top: Path, classes: str = "ab", count: int = 10, shade: int = 0) -> None:
    """``count`` images of each class; red is the number of the class, green that of the image."""
    for label, name in enumerate(classes):
        for at in range(count):
            write(top / name / f"{at:02d}.png", (label, at, shade))


# Reading ------------------------------------------------------------------------------------------


def test_divided_folders_are_read_as_they_are(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", count=10)
    write_classes(tmp_path / "test", count=4, shade=9)
    splits = folder(tmp_path).load()
    assert splits.classes == ("a", "b")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 4, 8)
    assert splits.test.images[:, 2].unique().tolist() == [9]
    assert splits.train.images[:, 2].unique().tolist() == [0]
    for part in (splits.train, splits.validation, splits.test):
        assert part.images[:, 0, 0, 0].tolist() == part.labels.tolist()


def test_an_undivided_folder_is_split(tmp_path: Path) -> None:
    write_classes(tmp_path)
    splits = folder(tmp_path).load()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 3, 5)
    parts = (splits.train, splits.validation, splits.test)
    seen = [tuple(pixel) for part in parts for pixel in part.images[:, :2, 0, 0].tolist()]
    assert sorted(seen) == [(label, at) for label in range(2) for at in range(10)]
    for part in parts:
        assert part.images[:, 0, 0, 0].tolist() == part.labels.tolist()


def test_the_split_of_an_undivided_folder_follows_from_the_split_seed(tmp_path: Path) -> None:
    write_classes(tmp_path)
    first, again, other = (folder(tmp_path, split_seed=seed).load().test.images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    for at, name in enumerate(["zebra", "ant", "Mole"]):
        for number in range(4):
            write(tmp_path / name / f"{number}.png", (at, 0, 0))
    splits = folder(tmp_path).load()
    assert splits.classes == ("Mole", "ant", "zebra")
    red = {int(label): int(image[0, 0, 0]) for image, label in zip(*vars(splits.train).values(), strict=True)}
    assert red == {0: 2, 1: 1, 2: 0}


def test_grey_images_become_colour(tmp_path: Path) -> None:
    for name in "ab":
        for at in range(5):
            write(tmp_path / name / f"{at}.png", 77)
    splits = folder(tmp_path, channels=3).load()
    assert splits.image_shape == (3, 8, 8)
    assert splits.train.images.unique().tolist() == [77]


def test_colour_images_become_grey_by_their_luma(tmp_path: Path) -> None:
    for name in "ab":
        for at in range(5):
            write(tmp_path / name / f"{at}.png", (200, 100, 50))
    splits = folder(tmp_path, channels=1).load()
    assert splits.image_shape == (1, 8, 8)
    assert splits.train.images.unique().tolist() == [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]


def test_paletted_and_transparent_images_are_converted(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (10, 20, 30)).quantize().save(tmp_path / "palette.png")
    Image.new("RGBA", (8, 8), (10, 20, 30, 255)).save(tmp_path / "alpha.png")
    found = decode_images([tmp_path / "palette.png", tmp_path / "alpha.png"], (8, 8), "RGB", "x")
    assert found[:, :, 0, 0].tolist() == [[10, 20, 30], [10, 20, 30]]


def test_sixteen_bit_images_keep_their_greys(tmp_path: Path) -> None:
    """A ramp from black to white must not become white everywhere but in its darkest 256th."""
    ramp = (np.arange(64).reshape(8, 8) * 1040).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    found = decode_images([tmp_path / "deep.png"], (8, 8), "L", "x")[0, 0]
    assert found.flatten().tolist() == pytest.approx((ramp.flatten() / 65535 * 255).tolist(), abs=1)


def test_pixels_of_lossless_files_are_kept_in_channel_row_column_order(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    for ending in ("png", "bmp", "ppm", "tiff"):
        Image.fromarray(pixels).save(tmp_path / f"x.{ending}")
        found = decode_images([tmp_path / f"x.{ending}"], (8, 12), "RGB", "x")
        assert found.is_contiguous()
        np.testing.assert_array_equal(found[0].numpy(), pixels.transpose(2, 0, 1))


def test_images_are_resized_without_cropping(tmp_path: Path) -> None:
    """The left half is black and the right half white, whatever the size and the shape of the file."""
    pixels = np.zeros((20, 64), np.uint8)
    pixels[:, 32:] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    for size in ((8, 8), (6, 8), (12, 8)):
        found = decode_images([tmp_path / "wide.png"], size, "L", "x")[0, 0]
        assert found.shape == size
        assert found[:, :3].max() == 0
        assert found[:, 5:].min() == 255


def test_many_files_keep_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{at}.pgm" for at in range(200)]
    for at, path in enumerate(paths):
        Image.new("L", (8, 8), at).save(path)
    assert decode_images(paths, (8, 8), "L", "x")[:, 0, 0, 0].tolist() == list(range(200))


def test_files_that_are_no_images_and_hidden_folders_are_ignored(tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "README.md").write_text("not a class")
    (tmp_path / ".cache").mkdir()
    splits = folder(tmp_path).load()
    assert splits.classes == ("a", "b")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 20


def test_images_in_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    write_classes(tmp_path, count=4)
    for at in range(4):
        write(tmp_path / "b" / "more" / f"{at}.PNG", (1, 4 + at, 0))
    splits = folder(tmp_path).load()
    labels = torch.cat([splits.train.labels, splits.validation.labels, splits.test.labels])
    assert labels.bincount().tolist() == [4, 8]


# Found again --------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, for as few as three images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_folder, "CACHED", 3)
    return tmp_path / "cache" / "dnn-compression"


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    for at in range(3):
        write(tmp_path / "images" / f"{at}.png", (at, 0, 9))
    return sorted((tmp_path / "images").iterdir())


def test_decoded_images_are_found_again(cache: Path, paths: list[Path]) -> None:
    first = decoded(paths, (8, 8), "RGB", "x")
    (kept,) = cache.glob("*.npy")
    array = np.load(kept)
    array[:, 2] = 100  # to tell what is found from what is decoded
    np.save(kept, array)
    again = decoded(paths, (8, 8), "RGB", "x")
    assert torch.equal(again[:, :2], first[:, :2])
    assert again[:, 2].unique().tolist() == [100]
    assert first[:, 2].unique().tolist() == [9]


@pytest.mark.parametrize("change", ["content", "size", "mode", "order"])
def test_images_are_decoded_again_if_anything_changed(cache: Path, paths: list[Path], change: str) -> None:
    decoded(paths, (8, 8), "RGB", "x")
    size, mode = (8, 8), "RGB"
    if change == "content":
        write(paths[1], (200, 201, 202))
        os.utime(paths[1], (1, 1))
    elif change == "order":
        paths = paths[::-1]
    elif change == "size":
        size = (9, 8)
    else:
        mode = "L"
    assert torch.equal(decoded(paths, size, mode, "x"), decode_images(paths, size, mode, "x"))
    assert len(list(cache.glob("*.npy"))) == 2


def test_new_pixels_of_equal_size_and_time_are_new_data(cache: Path, paths: list[Path]) -> None:
    before = decoded(paths, (8, 8), "RGB", "x")
    status = paths[1].stat()
    write(paths[1], (2, 0, 9))
    assert paths[1].stat().st_size == status.st_size
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    after = decoded(paths, (8, 8), "RGB", "x")
    assert after[:, 0, 0, 0].tolist() == [0, 2, 2]
    labels = torch.zeros(3)
    assert checksum(ImageSet(after, labels)) != checksum(ImageSet(before, labels))


def test_equal_images_elsewhere_are_found_again(cache: Path, paths: list[Path], tmp_path: Path) -> None:
    decoded(paths, (8, 8), "RGB", "x")
    shutil.copytree(tmp_path / "images", tmp_path / "copy")
    decoded(sorted((tmp_path / "copy").iterdir()), (8, 8), "RGB", "x")
    assert len(list(cache.glob("*.npy"))) == 1


def test_few_images_are_not_cached(cache: Path, paths: list[Path]) -> None:
    assert decoded(paths[:2], (8, 8), "RGB", "x")[:, 0, 0, 0].tolist() == [0, 1]
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, cache: Path, paths: list[Path]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert decoded(paths, (8, 8), "RGB", "x")[:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_damaged_image_among_many_is_named(cache: Path, paths: list[Path], damage: str) -> None:
    if damage == "missing":
        paths[1].unlink()
    else:
        paths[1].write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read as an image") as caught:
        decoded(paths, (8, 8), "RGB", "x")
    assert str(paths[1]) in str(caught.value)
    assert not list(cache.glob("*.npy"))


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"no image at all", b"", "truncated"], ids=["text", "empty", "truncated"])
def test_a_broken_image_is_named(tmp_path: Path, content: bytes | str) -> None:
    write_classes(tmp_path)
    broken = tmp_path / "b" / "05.png"
    if isinstance(content, str):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(broken)
        content = broken.read_bytes()[:2000]
    broken.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an image") as caught:
        folder(tmp_path).load()
    assert str(broken) in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder") as caught:
        folder(tmp_path / "nowhere").load()
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    write_classes(tmp_path, classes="a")
    with pytest.raises(InputError, match="holds 1 folders of images; at least two classes are needed"):
        folder(tmp_path).load()


def test_a_test_class_that_train_does_not_have_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", classes="ab")
    write_classes(tmp_path / "test", classes="abcd")
    with pytest.raises(InputError, match="has classes that train does not have: c, d"):
        folder(tmp_path).load()


def test_a_class_may_have_no_test_image(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", classes="abc")
    write_classes(tmp_path / "test", classes="ac", count=3)
    splits = folder(tmp_path).load()
    assert splits.classes == ("a", "b", "c")
    assert splits.test.labels.tolist() == [0] * 3 + [2] * 3


def test_class_folders_without_an_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="no image lies in the class folders"):
        folder(tmp_path).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 2}, "channels must be 1 or 3, and is 2"),
        ({"side": 7}, "side must be at least 8 pixels, and is 7"),
        ({"test_share": 0}, r"test_share must be in \(0, 1\), and is 0"),
        ({"test_share": 1}, r"test_share must be in \(0, 1\), and is 1"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folder(tmp_path, **settings)
