"""The data sets that torchvision reads: in their published formats, damaged, and missing.

CIFAR's files are checked against the published MD5 sums by torchvision itself, so a small one cannot be written.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets

from src.contracts import InputError
from src.data.gtsrb import Gtsrb
from src.data.torchvision_sets import LAYOUT, TorchvisionData, as_images, open_or_download

SETTINGS: dict[str, Any] = {
    "sha256": None,
    "validation_share": 0.25,
    "calibration_images": 4,
    "split_seed": 0,
    "mean": None,
    "std": None,
    "augmentation": None,
}


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST's files: two zero bytes, 8 for bytes, the number of axes, their lengths big-endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST") -> dict[str, np.ndarray]:
    """Write 20 training and 10 test images of random pixels; return the arrays by file."""
    generator = np.random.default_rng(0)
    written = {}
    for part, count in (("train", 20), ("t10k", 10)):
        written[f"{part}-images-idx3-ubyte"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        written[f"{part}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 10
    for file, array in written.items():
        write_idx(root / name / "raw" / file, array)
    return written


def mnist(root: Path | None, dataset: str = "MNIST", **settings: Any) -> TorchvisionData:
    return TorchvisionData(dataset=dataset, root=str(root) if root else None, **{**SETTINGS, **settings})


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let downloads go through a proxy that nobody runs, so that they fail on every machine."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


# Reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST"])
def test_pixels_and_labels_are_read_as_published(tmp_path: Path, dataset: str) -> None:
    written = write_mnist(tmp_path, dataset)
    splits = mnist(tmp_path, dataset).load()
    assert splits.name == dataset.lower()
    assert splits.image_shape == (1, 28, 28)
    np.testing.assert_array_equal(splits.test.images[:, 0].numpy(), written["t10k-images-idx3-ubyte"])
    assert splits.test.labels.tolist() == list(range(10))
    assert len(splits.classes) == 10
    published = {
        image.tobytes(): label
        for image, label in zip(
            written["train-images-idx3-ubyte"], written["train-labels-idx1-ubyte"].tolist(), strict=True
        )
    }
    for part in (splits.train, splits.validation):
        assert [published[image.numpy().tobytes()] for image in part.images] == part.labels.tolist()
    assert (len(splits.train), len(splits.validation)) == (15, 5)


def test_dnnc_data_names_the_folder_of_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    monkeypatch.setenv("DNNC_DATA", str(tmp_path))
    assert len(mnist(None).load().test) == 10


def test_colour_arrays_become_channels_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    found = as_images(pixels, [3, 1, 2, 0])
    assert found.images.shape == (4, 3, 5, 6)
    assert found.images.is_contiguous()
    np.testing.assert_array_equal(found.images.numpy(), pixels.transpose(0, 3, 1, 2))
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == [3, 1, 2, 0]


def test_grey_arrays_get_one_channel() -> None:
    pixels = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4)
    found = as_images(pixels, torch.tensor([1, 0]))
    assert found.images.shape == (2, 1, 3, 4)
    assert torch.equal(found.images[:, 0], pixels)


@pytest.mark.parametrize("dataset", ["GTSRB", "SVHN", "mnist"])
def test_another_set_is_refused(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(ValueError, match="dataset must be one of MNIST, FashionMNIST, CIFAR10, CIFAR100"):
        mnist(tmp_path, dataset)


# Damage -------------------------------------------------------------------------------------------

CUTS: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda content: content[: len(content) // 2],
    "header_only": lambda content: content[:8],
    "empty": lambda content: b"",
    "text": lambda content: b"<html>404 not found</html>",
}


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_a_damaged_file_is_refused_and_nothing_is_removed(
    tmp_path: Path, offline: None, file: str, cut: Callable[[bytes], bytes]
) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / file
    path.write_bytes(cut(path.read_bytes()))
    before = files(tmp_path)
    with pytest.raises(InputError, match="is truncated or damaged") as caught:
        mnist(tmp_path).load()
    assert str(tmp_path / "MNIST" / "raw") in str(caught.value)
    assert "MNIST" in str(caught.value)
    assert files(tmp_path) == before


def test_a_missing_file_of_a_set_that_is_there_is_refused(tmp_path: Path, offline: None) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="is truncated or damaged"):
        mnist(tmp_path).load()


def test_a_file_of_numbers_that_are_no_bytes_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:2] + bytes([9]) + content[3:])  # signed bytes
    with pytest.raises(InputError, match="is truncated or damaged"):
        mnist(tmp_path).load()


def test_fewer_labels_than_images_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.arange(18) % 10)
    with pytest.raises(InputError, match="labels"):
        mnist(tmp_path).load()


@pytest.mark.parametrize(
    ("dataset", "below", "names"),
    [
        ("CIFAR10", "cifar-10-batches-py", [*(f"data_batch_{at}" for at in range(1, 6)), "test_batch", "batches.meta"]),
        ("CIFAR100", "cifar-100-python", ["train", "test", "meta"]),
    ],
)
def test_a_cifar_of_other_bytes_than_published_is_refused(
    tmp_path: Path, offline: None, dataset: str, below: str, names: list[str]
) -> None:
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "fine_labels": [0, 1], "label_names": ["a", "b"]}
    (tmp_path / below).mkdir()
    for name in names:
        (tmp_path / below / name).write_bytes(pickle.dumps(batch))
    before = files(tmp_path)
    with pytest.raises(InputError, match="is truncated or damaged") as caught:
        mnist(tmp_path, dataset).load()
    assert str(tmp_path / below) in str(caught.value)
    assert files(tmp_path) == before


def test_another_content_than_the_configured_checksum_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(InputError, match="damaged or another version"):
        mnist(tmp_path, sha256="0" * 64).load()


# Missing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", LAYOUT)
def test_a_missing_set_that_cannot_be_downloaded_names_three_ways_out(
    tmp_path: Path, offline: None, dataset: str
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kept.bin").write_bytes(b"untouched")
    before, started = files(tmp_path), time.perf_counter()
    source = Gtsrb(root=str(tmp_path), side=8, **SETTINGS) if dataset == "GTSRB" else mnist(tmp_path, dataset)
    with pytest.raises(InputError, match="could not be downloaded") as caught:
        source.load()
    assert time.perf_counter() - started < 15
    below, spoken = LAYOUT[dataset]
    for said in (spoken, str(tmp_path), f"put {below} there", "DNNC_DATA", "data=shapes"):
        assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_failed_download_leaves_no_new_folder(tmp_path: Path, offline: None) -> None:
    with pytest.raises(InputError, match="could not be downloaded"):
        mnist(tmp_path / "data").load()
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def cut_off(root: Path, download: bool) -> None:
        assert download
        write_mnist(root)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_or_download(tmp_path, "MNIST", [cut_off])
    assert list(tmp_path.iterdir()) == []


def test_a_finished_download_is_complete_and_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the internet is replaced."""

    def download(self: torchvision.datasets.MNIST) -> None:
        write_mnist(Path(self.root))

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    assert len(mnist(tmp_path / "data").load().test) == 10
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["MNIST"]
    monkeypatch.undo()
    assert len(mnist(tmp_path / "data").load().test) == 10  # found again
