"""A folder as a camera and its tools left it, from its description to a file that predicts what its row promises."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.image_folder import ImageFolder
from src.device.__main__ import main as evaluate
from src.device.manifest import Bundle
from tests.commands import Commands

CLASSES = ("bar", "disc")
FAST = ["model=small_cnn", "model.blocks=[[8],[16]]", "model.dense=16", "training.epochs=3", "training.batch_size=16"]
QUICK = ["method=baseline", "timing.seconds=0.02", "timing.rounds=2", "timing.largest_batch=2"]


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.chdir(tmp_path)
    return Commands(tmp_path, capfd, monkeypatch)


def scene(label: int, generator: np.random.Generator) -> np.ndarray:
    """A bright horizontal bar or a disc on a dark ground, of any size, wider than high."""
    height, width = int(generator.integers(30, 50)), int(generator.integers(50, 70))
    y, x = np.mgrid[0:height, 0:width]
    cy, cx = height / 2 + generator.uniform(-5, 5), width / 2 + generator.uniform(-8, 8)
    shape = abs(y - cy) < 4 if label == 0 else (y - cy) ** 2 + (x - cx) ** 2 < 100
    return (np.where(shape, 200, 60) + generator.integers(-20, 20, shape.shape)).clip(0, 255).astype(np.uint8)


def shoot(path: Path, pixels: np.ndarray, kind: int) -> None:
    """Write an image as one of five devices does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if kind == 0:  # a camera that was held upright
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("RGB").rotate(90, expand=True).save(path.with_suffix(".jpg"), exif=exif, quality=95)
    elif kind == 1:  # a drawing program
        alpha = Image.fromarray(np.where(pixels > 130, 255, 0).astype(np.uint8))
        Image.merge("RGBA", [Image.new("L", image.size)] * 3 + [alpha]).save(path.with_suffix(".png"))
    elif kind == 2:  # a microscope of 12 bits
        Image.fromarray(pixels.astype(np.uint16) * 16).save(path.with_suffix(".tif"))
    elif kind == 3:
        image.save(path.with_suffix(".png"))
    else:
        image.convert("RGB").save(path.with_suffix(".jfif"), "JPEG")


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    """``Train/`` and ``val/`` with everything in them that goes wrong."""
    root, generator = tmp_path / "camera", np.random.default_rng(0)
    for split, count in (("Train", 50), ("val", 10)):
        for label, name in enumerate(CLASSES):
            for at in range(count):
                shoot(root / split / name / f"{at:02d}", scene(label, generator), at % 5)
    shoot(root / "Train" / "rare" / "only", scene(1, generator), 3)
    shutil.copy(root / "Train" / "disc" / "04.jfif", root / "val" / "disc" / "copy.jfif")
    shutil.copy(root / "Train" / "disc" / "03.png", root / "Train" / "disc" / "IMG_1.heic")
    for junk in ("Train/__pycache__", "annotations", "Train/disc/.ipynb_checkpoints"):
        (root / junk).mkdir()
    shutil.copy(root / "Train" / "disc" / "03.png", root / "Train" / "disc" / ".ipynb_checkpoints" / "03.png")
    return root


def test_describe_shows_what_was_read_and_what_is_wrong_with_it(commands: Commands, camera: Path) -> None:
    said = commands.call("describe", str(camera), "data.fit=letterbox", "--sheet", str(camera.parent / "sheet.png"))
    assert (said.code, said.err) == (0, "")
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[0].startswith("image_folder: inputs of 3x32x32, bilinear, letterbox, background 255, greys of 640 to")
    assert lines[2:6] == ["bar 40 10 10", "disc 40 11 10", "rare 1 0 0", "all 81 21 20"]
    for line in (
        "Turned upright by EXIF: 24; with transparency: 24",
        "not read, since no image of a known ending: 1 .heic; .heic becomes .jpg with the camera's or the system's "
        "export",
        "no folder of test images: 20 of 101 images are set aside (data.test_share)",
        "one image is all that there is of rare: nothing can be said of such a class; add images",
        "classes have 1 to 40 training images: read balanced_accuracy beside accuracy",
    ):
        assert line in lines
    assert [line for line in lines if "images, too" in line and "val/disc/copy.jfif" in line]
    sheet = Image.open(camera.parent / "sheet.png")
    assert sheet.height > 3 * 64
    assert len(np.unique(np.asarray(sheet))) > 50


def test_describe_of_what_is_no_data_is_one_line(commands: Commands, tmp_path: Path) -> None:
    said = commands.call("describe", str(tmp_path / "nowhere"))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("data.root: there is no folder ")
    assert len(said.err.splitlines()) == 1


def test_the_first_lines_of_a_run_say_classes_splits_and_faults_and_predict_does_what_the_row_says(
    commands: Commands, camera: Path
) -> None:
    said, folder = commands.run("data=image_folder", f"data.root={camera}", "data.height=24", *FAST, *QUICK)
    assert said.code == 0, said.err
    head = said.out.splitlines()[1]
    assert head == "  train 81 + validation 21 + test 20; 3 classes: bar 40+10+10, disc 40+11+10, rare 1+0+0"
    (row,) = json.loads((folder / "results.json").read_text())["rows"]
    shares = [share for share in row["accuracy_per_class"].values() if share is not None]
    assert row["balanced_accuracy"] == pytest.approx(sum(shares) / 2)

    from src.command.composition import build, composed

    data: ImageFolder = build(composed(["data=image_folder", f"data.root={camera}", "data.height=24"])[0], "data")
    splits = data.load()
    assert splits.image_shape == (3, 24, 32)
    files = data.files["test"]
    said = commands.call("predict", str(folder / row["artifact"]), *map(str, files), "--top", "1")
    assert said.code == 0, said.err
    predicted = [line.split(": ")[1].split()[0] for line in said.out.splitlines()]
    hits = sum(name == file.parent.name for name, file in zip(predicted, files, strict=True))
    assert hits / len(files) == row["accuracy"]


def test_a_bundle_carries_the_pixels_that_predict_makes_of_the_files(commands: Commands, camera: Path) -> None:
    """The evaluator resizes nothing: its images are those that the contract makes, to the byte."""
    settings = ["data=image_folder", f"data.root={camera}", "data.fit=letterbox"]
    said, folder = commands.run(*settings, *FAST, *QUICK)
    assert said.code == 0, said.err
    board = commands.folder / "board.pyz"
    arguments = ["--to", str(board), "--images", "all", "--artifacts", str(commands.artifacts)]
    said = commands.call("bundle", str(folder), *arguments)
    assert said.code == 0, said.err

    from src.command.composition import build, composed, target_of
    from src.data.decoding import decode_images

    data: ImageFolder = build(composed(settings)[0], "data")
    data.load()
    packed = Bundle(board)
    (name,) = packed.samples
    card = target_of(folder / "baseline.onnxruntime.onnx").read_card(folder / "baseline.onnxruntime.onnx")
    assert (card.preparation.fit, card.preparation.background) == ("letterbox", 255)
    assert packed.samples[name]["fit"] == "letterbox"
    assert packed.samples[name]["pixel_range"] == list(card.preparation.pixel_range or ())
    images, _ = packed.sample(name)
    expected = decode_images(data.files["test"], (32, 32), "RGB", "x", card.preparation)
    np.testing.assert_array_equal(images, expected.numpy())

    results = commands.folder / "device_results.json"
    assert evaluate([str(board), "--seconds", "0.02", "--out", str(results)]) == 0
    (measured,) = json.loads(results.read_text())["rows"]
    assert measured["accuracy"] == json.loads((folder / "results.json").read_text())["rows"][0]["accuracy"]


@pytest.mark.parametrize("fit", ["pad", "letterbox"])
def test_a_published_set_is_brought_to_a_networks_size(commands: Commands, fit: str) -> None:
    said, _ = commands.run("data=digits", "data.height=32", "data.width=32", f"data.fit={fit}", *FAST, *QUICK)
    assert said.code == 0, said.err
    assert "1,797 images of 1x32x32" in said.out


def test_mixed_and_augmented_batches_train_a_network(commands: Commands, camera: Path) -> None:
    chosen = ["+augmentation@data.augmentation=rand_augment", "+mixing@data.mixing=cutmix"]
    said, folder = commands.run("data=image_folder", f"data.root={camera}", *chosen, *FAST, *QUICK)
    assert said.code == 0, said.err
    identity = json.loads((folder / "results.json").read_text())["identity"]
    record = json.loads((commands.artifacts / identity / "stage.json").read_text())
    assert record["spec"]["data"]["mixing"]["name"] == "CutMix"
    assert record["spec"]["data"]["augmentation"]["steps"][1]["name"] == "RandAugment"


def test_only_a_training_folder_is_refused_with_the_root_that_was_meant(commands: Commands, camera: Path) -> None:
    shutil.rmtree(camera / "val")
    said, _ = commands.run("data=image_folder", f"data.root={camera}", *FAST)
    assert said.code == 2
    assert f"data.root={camera / 'Train'} splits the classes in it" in said.err
    assert len(said.err.splitlines()) == 1
