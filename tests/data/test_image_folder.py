"""A user's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.contracts import InputError
from src.data.image_folder import ImageFolder

SETTINGS: dict[str, Any] = {
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


def folder(root: Path, **settings: Any) -> ImageFolder:
    return ImageFolder(root=str(root), **{**SETTINGS, **settings})


def write(path: Path, colour: tuple[int, int, int] | int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L" if isinstance(colour, int) else "RGB", size, colour)
    image.putpixel((size[0] - 1, size[1] - 1), 255 if isinstance(colour, int) else (255, 255, 255))
    image.save(path)


def write_classes(top: Path, classes: str = "ab", count: int = 10, shade: int = 0) -> None:
    """``count`` images of each class, but for a corner red is the number of the class, green that of the image."""
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
    assert splits.test.images[:, 2, 0, 0].unique().tolist() == [9]
    assert splits.train.images[:, 2, 0, 0].unique().tolist() == [0]
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
            write(tmp_path / name / f"{number}.png", (at, number, 0))
    splits = folder(tmp_path).load()
    assert splits.classes == ("Mole", "ant", "zebra")
    red = {int(label): int(image[0, 0, 0]) for image, label in zip(*vars(splits.train).values(), strict=True)}
    assert red == {0: 2, 1: 1, 2: 0}


def test_grey_images_become_colour(tmp_path: Path) -> None:
    for name in "ab":
        for at in range(5):
            write(tmp_path / name / f"{at}.png", 70 + at)
    splits = folder(tmp_path, channels=3).load()
    assert splits.image_shape == (3, 8, 8)
    assert torch.equal(splits.train.images[:, 0], splits.train.images[:, 2])
    assert set(splits.train.images[:, 0, 0, 0].tolist()) <= set(range(70, 75))


def test_colour_images_become_grey_by_their_luma(tmp_path: Path) -> None:
    for name in "ab":
        for at in range(5):
            write(tmp_path / name / f"{at}.png", (200, 100, 50), (8, 8 + at))
    splits = folder(tmp_path, channels=1).load()
    assert splits.image_shape == (1, 8, 8)
    assert splits.train.images[:, 0, 0, 0].unique().tolist() == [round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)]


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


# Folders as tools leave them ----------------------------------------------------------------------


def test_training_and_validation_folders_are_splits_and_the_test_is_carved_and_said(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", count=20)
    write_classes(tmp_path / "val", count=5, shade=9)
    splits = folder(tmp_path).load()
    assert splits.classes == ("a", "b")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (30, 10, 10)
    assert splits.validation.images[:, 2, 0, 0].unique().tolist() == [9]
    assert splits.test.labels.bincount().tolist() == [5, 5]
    assert splits.remarks == ("no folder of test images: 10 of 40 images are set aside (data.test_share)",)
    for part in (splits.train, splits.validation, splits.test):
        assert part.images[:, 0, 0, 0].tolist() == part.labels.tolist()


def test_all_three_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    for shade, (name, count) in enumerate((("Training", 8), ("VAL", 2), ("testing", 3))):
        write_classes(tmp_path / name, count=count, shade=shade)
    splits = folder(tmp_path).load()
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [16, 4, 6]
    assert [part.images[:, 2, 0, 0].unique().tolist() for part in parts] == [[0], [1], [2]]
    assert splits.remarks == ()


def test_a_border_between_training_and_validation_that_moves_is_other_data(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", classes="ab", count=6)
    for name in "ab":
        (tmp_path / "val" / name).mkdir(parents=True)
    (tmp_path / "train" / "b" / "05.png").rename(tmp_path / "val" / "b" / "05.png")
    before = folder(tmp_path).load()
    (tmp_path / "train" / "b" / "04.png").rename(tmp_path / "val" / "b" / "04.png")
    assert folder(tmp_path).load().checksum != before.checksum


def test_the_file_of_each_image_is_known(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", count=12)
    write_classes(tmp_path / "valid", count=3, shade=9)
    data = folder(tmp_path)
    splits = data.load()
    for name, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        assert [int(path.stem) for path in data.files[name]] == part.images[:, 1, 0, 0].tolist()
        assert ["ab".index(path.parent.name) for path in data.files[name]] == part.labels.tolist()


def test_equal_images_never_part_when_a_split_is_carved(tmp_path: Path) -> None:
    """Each picture lies there three times, as copies of a camera's memory do."""
    for at in range(12):
        for name in "ab":
            for copy in range(3):
                write(tmp_path / name / f"{at:02d}_{copy}.png", ("ab".index(name), at, 0))
    splits = folder(tmp_path).load()
    kinds = [set(part.images[:, :2, 0, 0].mul(1).long().matmul(torch.tensor([100, 1])).tolist()) for part in
             (splits.train, splits.validation, splits.test)]  # fmt: skip
    assert not kinds[0] & kinds[1]
    assert not kinds[0] & kinds[2]
    assert not kinds[1] & kinds[2]
    assert any("images repeat another one" in line for line in splits.remarks)


def test_a_folder_of_copies_alone_is_refused_with_the_cause(tmp_path: Path) -> None:
    for at, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for copy in range(6):
            Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) + at).save(tmp_path / name / f"{copy}.png")
    with pytest.raises(InputError, match=r"left for the test set, for equal images .* 12 images, 2 different .*test/$"):
        folder(tmp_path, channels=1).load()


def test_a_rare_class_is_in_every_split(tmp_path: Path) -> None:
    write_classes(tmp_path, classes="a", count=100)
    for at in range(3):
        write(tmp_path / "b" / f"{at}.png", (1, at, 0))
    splits = folder(tmp_path).load()
    for part in (splits.train, splits.validation, splits.test):
        assert part.labels.bincount(minlength=2)[1] == 1


def test_most_images_of_one_value_stop_the_run_and_a_few_do_not(tmp_path: Path) -> None:
    write_classes(tmp_path, count=10)
    for at in range(8):
        Image.new("RGB", (8, 8), (at, 0, 0)).save(tmp_path / "a" / f"flat{at}.png")
    assert any("8 of 28 images have one colour" in line for line in folder(tmp_path).load().remarks)
    for at in range(30):
        Image.new("RGB", (8, 8), (at, 1, 0)).save(tmp_path / "b" / f"flat{at}.png")
    data = folder(tmp_path)
    with pytest.raises(InputError, match="38 of 58 images have one colour in all their pixels: .* src.describe"):
        data.load()
    assert any("38 of 58 images" in line for line in data.inspect().remarks)


def test_black_drawings_on_nothing_are_seen(tmp_path: Path) -> None:
    for label, name in enumerate("ab"):
        for at in range(6):
            alpha = Image.new("L", (8, 8), 0)
            alpha.putpixel((at, label), 255)
            (tmp_path / name).mkdir(exist_ok=True)
            Image.merge("RGBA", [Image.new("L", (8, 8))] * 3 + [alpha]).save(tmp_path / name / f"{at}.png")
    splits = folder(tmp_path, background=255).load()
    assert splits.train.images.amin((1, 2, 3)).tolist() == [0] * len(splits.train)
    assert splits.train.images.amax((1, 2, 3)).tolist() == [255] * len(splits.train)
    with pytest.raises(InputError, match="12 of 12 images have one colour"):
        folder(tmp_path, background=0).load()


def test_deep_greys_have_the_range_of_the_training_images_in_the_input_contract(tmp_path: Path) -> None:
    for part, top in (("train", 4000), ("test", 5000)):
        for name in "ab":
            for at in range(5):
                values = np.linspace(500, top - at - 10 * "ab".index(name), 64).reshape(8, 8).astype(np.uint16)
                (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(tmp_path / part / name / f"{at}.png")
    splits = folder(tmp_path, channels=1).load()
    assert (splits.preparation.pixel_range, splits.preparation.own_depth) == ((500, 4000), True)
    assert splits.train.images.max() == 255
    assert splits.train.images.min() == 0
    assert any("500 becomes black and 4000 white" in line for line in splits.remarks)
    assert folder(tmp_path, channels=1, pixel_range=[0, 65535]).inspect().train.images.max() == 16


def test_height_and_width_need_not_be_equal(tmp_path: Path) -> None:
    write_classes(tmp_path)
    assert folder(tmp_path, height=12, width=20).load().image_shape == (3, 12, 20)
    assert folder(tmp_path, side=16, width=24).load().image_shape == (3, 16, 24)


def test_a_users_own_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DNNC_DATA", str(tmp_path / "elsewhere"))
    assert folder(Path("data")).load().classes == ("a", "b")
