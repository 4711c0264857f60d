"""Many files of images in one tensor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.contracts import ImageSet, InputError
from src.data import decoding
from src.data.decoding import decode_images, decoded
from src.data.images import checksum


def write(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, for as few as three images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoding, "CACHED", 3)
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
