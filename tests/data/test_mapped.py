"""Sets of images that are larger than a share of the memory: decoded into a file, and read from there."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.contracts import STRETCHED, ImageSet, InputError, MappedImages
from src.data import mapped
from src.data.augmentation import Flip
from src.data.batches import TensorBatches
from src.data.decoding import decode_images, decoded
from src.data.image_folder import ImageFolder
from src.data.images import checksum
from src.data.mapped import mapped_images
from src.data.splitting import Looks
from tests.data.test_image_folder import SETTINGS

SIZE = (8, 8)


@pytest.fixture(autouse=True)
def little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, no image held in memory, and groups of four images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(mapped.LIMIT, "1000")
    monkeypatch.setattr(MappedImages, "FEW", 0)
    monkeypatch.setattr(mapped, "TOGETHER", 4)
    monkeypatch.setattr(mapped, "FLUSHED", 1)
    return tmp_path / "cache" / "dnn-compression"


def write(root: Path, classes: str = "ab", count: int = 20) -> list[Path]:
    chance = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for at in range(count):
            Image.fromarray(chance.integers(0, 256, (8, 10, 3), dtype=np.uint8)).save(root / name / f"{at:02d}.png")
    return sorted(root.rglob("*.png"))


def test_mapped_images_are_those_that_are_decoded_in_memory(tmp_path: Path, little_memory: Path) -> None:
    paths = write(tmp_path / "images")
    found = decoded(paths, SIZE, "RGB", "x")
    assert isinstance(found, MappedImages)
    assert torch.equal(found[:], decode_images(paths, SIZE, "RGB", "x"))
    assert sorted(path.suffix for path in little_memory.iterdir()) == [".json", ".lock", ".npy"]


def test_a_mapped_folder_is_the_same_data_as_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits, statistics, remarks and the checksum, by which stages are found again."""
    write(tmp_path / "set")
    large = ImageFolder(root=str(tmp_path / "set"), **SETTINGS)
    from_file = large.load()
    monkeypatch.setenv(mapped.LIMIT, str(10**9))
    in_memory = ImageFolder(root=str(tmp_path / "set"), **SETTINGS).load()
    assert isinstance(from_file.train.images, MappedImages)
    assert isinstance(in_memory.train.images, torch.Tensor)
    assert (from_file.checksum, from_file.mean, from_file.std) == (in_memory.checksum, in_memory.mean, in_memory.std)
    for part in ("train", "validation", "test", "calibration"):
        mine, other = getattr(from_file, part), getattr(in_memory, part)
        assert torch.equal(mine.images[:], other.images)
        assert torch.equal(mine.labels, other.labels)
        assert checksum(mine) == checksum(other)
    (said,) = set(from_file.remarks) - set(in_memory.remarks)
    assert said.startswith("40 images of 0.0 GB stay in a file of the cache")


def test_batches_of_mapped_images_are_those_of_images_in_memory(tmp_path: Path) -> None:
    images = decoded(write(tmp_path / "images"), SIZE, "RGB", "x")
    labels = torch.arange(40)
    settings: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.2] * 3}
    for more in ({}, {"shuffle_seed": 3, "augmentation": Flip(), "drop_last": True}):
        mine = TensorBatches(ImageSet(images, labels), 7, **settings, **more)
        other = TensorBatches(ImageSet(images[:], labels), 7, **settings, **more)
        for epoch in range(2):
            mine.set_epoch(epoch)
            other.set_epoch(epoch)
            for (images_1, labels_1), (images_2, labels_2) in zip(mine, other, strict=True):
                assert torch.equal(images_1, images_2)
                assert torch.equal(labels_1, labels_2)


def test_a_selection_is_no_copy_and_few_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = decoded(write(tmp_path / "images"), SIZE, "RGB", "x")
    assert isinstance(images, MappedImages)
    chosen = images.select(torch.tensor([5, 3, 8])).select(torch.tensor([2, 0]))
    assert isinstance(chosen, MappedImages)
    assert chosen.file is images.file
    assert torch.equal(chosen[:], images[:][[8, 5]])
    assert torch.equal(chosen[1], images[5])
    assert len(pickle.dumps(chosen)) < 1000  # another process maps the file itself
    assert torch.equal(pickle.loads(pickle.dumps(chosen))[:], chosen[:])
    monkeypatch.setattr(MappedImages, "FEW", 2 * 3 * 8 * 8)
    assert isinstance(images.select(torch.tensor([1, 2])), torch.Tensor)
    assert isinstance(images.select(torch.tensor([1, 2, 3])), MappedImages)


def test_looks_do_not_depend_on_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageSet(decoded(write(tmp_path / "images"), SIZE, "RGB", "x"), torch.arange(40))
    whole = Looks.at(images)
    monkeypatch.setattr("src.contracts.data.CHUNK", 3 * 8 * 8 * 7)
    parts = Looks.at(images)
    assert whole.digests == parts.digests
    assert torch.equal(whole.highest, parts.highest)
    assert torch.equal(whole.lowest, images.images[:].flatten(2).amin(2))


# Interruptions ------------------------------------------------------------------------------------


def _decode(cache: Path, paths: list[Path]) -> None:
    mapped_images(cache, paths, SIZE, "RGB", "x", STRETCHED)


def _stop_after(cache: Path, paths: list[Path], groups: int) -> int:
    """Decode in a process that is killed once so many groups are noted; return how many images are noted then."""
    process = multiprocessing.get_context("fork").Process(target=_decode, args=(cache, paths))
    process.start()
    notes = cache.with_name(f"{cache.name}.part.json")
    while not (notes.exists() and json.loads(notes.read_text())["done"] >= groups * mapped.TOGETHER):
        assert process.is_alive(), "it ended before it was killed: make reading slower"
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return int(json.loads(notes.read_text())["done"])


def test_a_killed_decoding_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, cache = write(tmp_path / "images", count=40), tmp_path / "x.npy"
    whole = mapped.read

    def slow_read(*given: Any) -> Any:
        time.sleep(0.02)
        return whole(*given)

    monkeypatch.setattr(mapped, "read", slow_read)
    done = _stop_after(cache, paths, 3)
    assert 12 <= done < 80
    assert not cache.exists()
    time.sleep(1.5)  # its workers end by themselves
    part = cache.with_name("x.npy.part")
    pixels = np.lib.format.open_memmap(part, "r+")
    pixels[0] = 7  # to tell what is found from what is decoded
    pixels[done:] = 0
    del pixels
    monkeypatch.setattr(mapped, "read", whole)
    found = mapped_images(cache, paths, SIZE, "RGB", "x", STRETCHED)
    assert found[0].unique().tolist() == [7]
    assert torch.equal(found[1:], decode_images(paths, SIZE, "RGB", "x")[1:])
    assert not part.exists()


@pytest.mark.parametrize("damage", ["no notes", "broken notes", "short part"])
def test_what_is_left_and_damaged_is_decoded_anew(tmp_path: Path, damage: str) -> None:
    paths, cache = write(tmp_path / "images"), tmp_path / "x.npy"
    part, notes = cache.with_name("x.npy.part"), cache.with_name("x.npy.part.json")
    np.save(part.open("wb"), np.zeros((39 if damage == "short part" else 40, 3, 8, 8), np.uint8))
    if damage != "no notes":
        notes.write_text("{" if damage == "broken notes" else '{"done": 20}')
    found = mapped_images(cache, paths, SIZE, "RGB", "x", STRETCHED)
    assert torch.equal(found[:], decode_images(paths, SIZE, "RGB", "x"))


def test_notes_of_another_part_file_do_not_make_zeros_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache was deleted after a command that was killed between its last two steps; the next is killed early."""
    paths, cache = write(tmp_path / "images"), tmp_path / "x.npy"
    cache.with_name("x.npy.part.json").write_text('{"done": 40}')

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as early:
        early.setattr(mapped, "_decoded_by_processes", killed)
        with pytest.raises(KeyboardInterrupt):
            mapped_images(cache, paths, SIZE, "RGB", "x", STRETCHED)
    found = mapped_images(cache, paths, SIZE, "RGB", "x", STRETCHED)
    assert torch.equal(found[:], decode_images(paths, SIZE, "RGB", "x"))


def test_a_file_of_the_cache_that_was_cut_off_is_decoded_anew(tmp_path: Path, little_memory: Path) -> None:
    paths = write(tmp_path / "images")
    expected = decoded(paths, SIZE, "RGB", "x")[:]
    (cache,) = little_memory.glob("*.npy")
    cache.write_bytes(cache.read_bytes()[:-100])
    assert torch.equal(decoded(paths, SIZE, "RGB", "x")[:], expected)


def test_damaged_images_are_named_and_nothing_is_left(tmp_path: Path, little_memory: Path) -> None:
    paths = write(tmp_path / "images")
    paths[5].write_bytes(b"no image")
    paths[30].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a/05.png cannot be read as an image.*, and so are 1 more"):
        decoded(paths, SIZE, "RGB", "x")
    assert not list(little_memory.glob("*.npy*part*"))
    assert not list(little_memory.glob("*.npy"))


def test_a_cache_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    paths = write(tmp_path / "images")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="XDG_CACHE_HOME=… names another place"):
        decoded(paths, SIZE, "RGB", "x")


def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mapped.LIMIT, "2GB")
    with pytest.raises(InputError, match="must be a whole number of bytes, and is 2GB"):
        decoded(write(tmp_path / "images"), SIZE, "RGB", "x")


def test_a_container_may_use_less_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(mapped.LIMIT)
    monkeypatch.setattr(mapped, "CGROUP", tmp_path / "memory.max")
    whole = mapped.limit_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    assert mapped.limit_bytes() == whole
    (tmp_path / "memory.max").write_text("80000000\n")
    assert mapped.limit_bytes() == 10_000_000
