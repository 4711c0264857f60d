"""The German traffic signs, whose tracks are never divided."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision.datasets
from PIL import Image

from src.contracts import InputError
from src.data.gtsrb import Gtsrb

CLASSES, TRACKS, FRAMES = 3, 4, 5
TESTS = [2, 0, 1, 1, 0, 2]  # labels of the test images


def write_training(root: Path) -> None:
    """Each frame's red is 10 x class + track (both from 0), its green the number of the frame."""
    for label in range(CLASSES):
        folder = root / "gtsrb" / "GTSRB" / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        (folder / f"GT-{label:05d}.csv").write_text("Filename;Width;Height;ClassId\n")
        for track in range(TRACKS):
            for frame in range(FRAMES):
                colour = (10 * label + track, frame, 200)
                Image.new("RGB", (15 + track, 15 + frame), colour).save(folder / f"{track:05d}_{frame:05d}.ppm")


def write_test(root: Path) -> None:
    images = root / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    images.mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for at, label in enumerate(TESTS):
        Image.new("RGB", (20, 18), (at, label, 100)).save(images / f"{at:05d}.ppm")
        lines.append(f"{at:05d}.ppm;20;18;5;5;15;13;{label}")
    (root / "gtsrb" / "GT-final_test.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A GTSRB of three classes as torchvision lays it out."""
    write_training(tmp_path)
    write_test(tmp_path)
    return tmp_path


def gtsrb(root: Path, **settings: Any) -> Gtsrb:
    defaults = {
        "side": 8,
        "sha256": None,
        "validation_share": 0.25,
        "calibration_images": 5,
        "split_seed": 0,
        "mean": None,
        "std": None,
        "augmentation": None,
    }
    made = Gtsrb(root=str(root), **{**defaults, **settings})
    made.training_images = made.test_images = range(1000)  # the fake set is smaller than the published ones
    return made


def test_all_frames_and_test_images_are_read_with_their_labels(root: Path) -> None:
    splits = gtsrb(root).load()
    assert len(splits.train) + len(splits.validation) == CLASSES * TRACKS * FRAMES
    assert splits.image_shape == (3, 8, 8)
    for part in (splits.train, splits.validation):
        assert (part.images[:, 0, 0, 0] // 10).tolist() == part.labels.tolist()
    assert splits.test.labels.tolist() == TESTS
    assert splits.test.images[:, 0, 0, 0].tolist() == list(range(len(TESTS)))


def test_there_are_43_classes(root: Path) -> None:
    splits = gtsrb(root).load()
    assert len(splits.classes) == 43
    assert (splits.classes[0], splits.classes[42]) == ("speed limit 20", "end of no passing for trucks")


@pytest.mark.parametrize("split_seed", range(4))
def test_no_track_is_divided(root: Path, split_seed: int) -> None:
    splits = gtsrb(root, split_seed=split_seed).load()
    training, validating = (set(part.images[:, 0, 0, 0].tolist()) for part in (splits.train, splits.validation))
    assert not training & validating
    assert len(validating) == 3  # a quarter of the twelve tracks
    assert len(splits.validation) == 3 * FRAMES


def test_tracks_of_one_number_in_two_classes_are_two_tracks(root: Path) -> None:
    """Track 0 of class 0 may be in the validation split and track 0 of class 1 in the training split."""
    divided = False
    for split_seed in range(10):
        splits = gtsrb(root, split_seed=split_seed).load()
        training, validating = (set(part.images[:, 0, 0, 0].tolist()) for part in (splits.train, splits.validation))
        divided |= bool({red % 10 for red in training} & {red % 10 for red in validating})
    assert divided


def test_images_are_resized_to_one_side(root: Path) -> None:
    splits = gtsrb(root, side=12).load()
    assert splits.image_shape == (3, 12, 12)
    assert splits.test.images.dtype == torch.uint8
    assert splits.test.images[:, 2].unique().tolist() == [100]


def test_a_broken_frame_is_named(root: Path) -> None:
    broken = root / "gtsrb" / "GTSRB" / "Training" / "00001" / "00002_00003.ppm"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match="cannot be read as an image") as caught:
        gtsrb(root).load()
    assert str(broken) in str(caught.value)


def test_a_missing_test_image_is_named(root: Path) -> None:
    missing = root / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / "00003.ppm"
    missing.unlink()
    with pytest.raises(InputError, match="cannot be read as an image") as caught:
        gtsrb(root).load()
    assert str(missing) in str(caught.value)


def test_a_missing_list_of_test_labels_is_named(root: Path) -> None:
    (root / "gtsrb" / "GT-final_test.csv").unlink()
    with pytest.raises(InputError, match=r"GTSRB in .* is truncated or damaged .*GT-final_test"):
        gtsrb(root).load()


def test_a_list_of_test_labels_without_its_columns_is_refused(root: Path) -> None:
    (root / "gtsrb" / "GT-final_test.csv").write_text("a;b\n1;2\n")
    with pytest.raises(InputError, match="truncated or damaged"):
        gtsrb(root).load()


def test_both_halves_are_downloaded_if_both_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Torchvision downloads each half by itself; only the internet is replaced here."""

    def download(self: torchvision.datasets.GTSRB) -> None:
        if not self._check_exists():
            (write_training if self._split == "train" else write_test)(Path(self.root))

    monkeypatch.setattr(torchvision.datasets.GTSRB, "download", download)
    splits = gtsrb(tmp_path).load()
    assert splits.test.labels.tolist() == TESTS
    assert len(splits.train) + len(splits.validation) == CLASSES * TRACKS * FRAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gtsrb"]
    assert sorted(path.name for path in (tmp_path / "gtsrb").iterdir()) == ["GT-final_test.csv", "GTSRB"]


def test_a_download_whose_second_half_failed_succeeds_the_next_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = {"train": True, "test": False}

    def download(self: torchvision.datasets.GTSRB) -> None:
        if not self._check_exists():
            if not network[self._split]:
                raise URLError("the line is dead")
            (write_training if self._split == "train" else write_test)(Path(self.root))

    monkeypatch.setattr(torchvision.datasets.GTSRB, "download", download)
    with pytest.raises(InputError, match="could not be downloaded .*the line is dead"):
        gtsrb(tmp_path).load()
    network["test"] = True
    assert gtsrb(tmp_path).load().test.labels.tolist() == TESTS


def test_a_side_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="side must be at least 8 pixels, and is 7"):
        gtsrb(tmp_path, side=7)


def test_a_set_with_images_missing_is_refused(root: Path) -> None:
    made = gtsrb(root)
    made.training_images = (39_209,)
    with pytest.raises(InputError, match="truncated or damaged"):
        made.load()
