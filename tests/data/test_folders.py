"""What a user's folder holds: splits by their names, classes, and what is left out, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from src.contracts import InputError
from src.data.folders import Found, find


def tree(root: Path, *files: str) -> Path:
    """Empty files; finding reads none."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def classes(top: str, *names: str) -> list[str]:
    return [f"{top}{name}/{at}.png" for name in names for at in range(2)]


def counts(found: Found) -> Mapping[str, int]:
    return {part: len(paths) for part, (paths, _) in found.parts.items()}


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("train", "val"), ["train", "validation"]),
        (("train", "valid"), ["train", "validation"]),
        (("Train", "Test"), ["train", "test"]),
        (("TRAINING", "testing", "Validation"), ["train", "validation", "test"]),
        (("train_set", "dev"), ["train", "validation"]),
        (("train", "val", "test"), ["train", "validation", "test"]),
        (("seg_train", "seg_test", "seg_val"), ["train", "validation", "test"]),
        (("training_set", "test_set", "validation_set"), ["train", "validation", "test"]),
        (("Train Images", "test-images2", "eval"), ["train", "validation", "test"]),
        (("train_data", "tst", "valset"), ["train", "validation", "test"]),
    ],
)
def test_usual_names_in_any_case_are_splits(tmp_path: Path, names: tuple[str, ...], parts: list[str]) -> None:
    for name in names:
        tree(tmp_path, *classes(f"{name}/", "cat", "dog"))
    found = find(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert list(found.parts) == parts
    assert set(counts(found).values()) == {4}
    assert found.parts["train"][1] == [0, 0, 1, 1]


def test_a_split_word_beside_another_word_is_a_class(tmp_path: Path) -> None:
    found = find(tree(tmp_path, *classes("train_station/", "a", "b"), *classes("test_tube/", "a", "b")))
    assert found.classes == ["test_tube", "train_station"]


@pytest.mark.parametrize("beside", [[], classes("pictures/", "cat", "dog")], ids=["alone", "beside"])
def test_test_images_are_never_proposed_for_training(tmp_path: Path, beside: list[str]) -> None:
    tree(tmp_path, *classes("test/", "cat", "dog"), *beside)
    with pytest.raises(InputError, match="name the folder of the training images train/") as caught:
        find(tmp_path)
    assert f"data.root={tmp_path / 'test'}" not in str(caught.value)


def test_without_splits_the_folders_are_classes(tmp_path: Path) -> None:
    found = find(tree(tmp_path, *classes("", "cat", "dog")))
    assert (found.classes, counts(found), found.remarks) == (["cat", "dog"], {"train": 4}, [])


def test_a_class_may_have_the_name_of_a_split_if_its_images_lie_in_it(tmp_path: Path) -> None:
    assert find(tree(tmp_path, *classes("", "bus", "car", "train"))).classes == ["bus", "car", "train"]


@pytest.mark.parametrize("name", ["train", "Training Set"])
def test_training_images_alone_are_suggested_as_the_root(tmp_path: Path, name: str) -> None:
    tree(tmp_path, *classes(f"{name}/", "cat", "dog"))
    with pytest.raises(InputError, match=f"holds only {name}/.*data.root={tmp_path / name} splits the classes in it"):
        find(tmp_path)


def test_a_split_beside_other_images_is_not_guessed_at(tmp_path: Path) -> None:
    tree(tmp_path, *classes("train/", "cat", "dog"), *classes("", "extra"))
    with pytest.raises(InputError, match=r"holds train/ beside extra/, which has the name of a split"):
        find(tmp_path)


def test_splits_without_training_images_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, *classes("val/", "cat", "dog"), *classes("test/", "cat", "dog"))
    with pytest.raises(InputError, match=r"holds test/, val/ and no train/"):
        find(tmp_path)


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        tree(tmp_path, *classes(f"{name}/", "cat", "dog"))
    with pytest.raises(InputError, match=r"val/, valid/ of .* are validation splits: keep one"):
        find(tmp_path)


def test_splits_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images lie directly in test/, train/ of .*, with no folder for each class"):
        find(tree(tmp_path, "train/1.png", "test/2.png"))


def test_a_folder_above_the_classes_is_seen_through(tmp_path: Path) -> None:
    tree(tmp_path, *classes("images/", "cat", "dog"))
    with pytest.raises(InputError, match=rf"at least two classes are needed \(data.root={tmp_path / 'images'} holds 2"):
        find(tmp_path)


def test_images_without_any_class_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 images lie directly in it: put those of each class into a folder"):
        find(tree(tmp_path, "1.png", "2.png"))


def test_a_split_without_an_image_of_a_class_folder_is_no_split(tmp_path: Path) -> None:
    tree(tmp_path, *classes("train/", "cat", "dog"), *classes("val/", "cat", "dog"))
    (tmp_path / "test").mkdir()
    assert list(find(tmp_path).parts) == ["train", "validation"]


def test_folders_without_images_are_no_classes_and_are_named(tmp_path: Path) -> None:
    tree(tmp_path, *classes("", "cat", "dog"), "annotations/cat.xml", "__pycache__/x.pyc", ".git/config")
    (tmp_path / "empty").mkdir()
    found = find(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert found.remarks == [
        "no class, since no image lies there: annotations/, empty/",
        "not read, since no image of a known ending: 1 .xml",
    ]


def test_what_tools_leave_inside_a_class_is_not_counted(tmp_path: Path) -> None:
    left = ["cat/.ipynb_checkpoints/0-checkpoint.png", "cat/._0.png", "cat/@eaDir/0.png", "__MACOSX/cat/0.png"]
    found = find(tree(tmp_path, *classes("", "cat", "dog"), *left))
    assert (found.classes, counts(found)) == (["cat", "dog"], {"train": 4})


def test_linked_folders_below_a_class_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    tree(tmp_path / "set", *classes("", "cat", "dog"))
    tree(tmp_path / "elsewhere", "9.png")
    (tmp_path / "set" / "cat" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set" / "dog" / "loop").symlink_to(tmp_path / "set" / "dog", target_is_directory=True)
    (tmp_path / "set" / "dog" / "gone").symlink_to(tmp_path / "nowhere")
    found = find(tmp_path / "set")
    assert found.parts["train"][1] == [0, 0, 0, 1, 1]
    assert found.remarks == ["not read, since no image of a known ending: 1 (broken link)"]


def test_a_linked_class_is_a_class(tmp_path: Path) -> None:
    tree(tmp_path / "set", *classes("", "cat"))
    tree(tmp_path / "birds", "9.png")
    (tmp_path / "set" / "bird").symlink_to(tmp_path / "birds", target_is_directory=True)
    assert find(tmp_path / "set").classes == ["bird", "cat"]


@pytest.mark.parametrize("ending", ["jfif", "avif", "jp2", "JPG", "Tiff"])
def test_files_of_every_ending_that_can_be_read_are_found(tmp_path: Path, ending: str) -> None:
    found = find(tree(tmp_path, *classes("", "cat", "dog"), f"cat/x.{ending}"))
    assert counts(found) == {"train": 5}


def test_files_that_are_not_read_are_said_by_their_ending(tmp_path: Path) -> None:
    found = find(tree(tmp_path, *classes("", "cat", "dog"), "cat/a.heic", "cat/b.HEIC", "dog/c.txt", "1.png"))
    assert found.remarks == [
        "not read, since no image of a known ending: 2 .heic, 1 .txt; .heic becomes .jpg with the camera's or the "
        "system's export",
        f"not read, since outside of the class folders of {tmp_path}: 1 images",
    ]


def test_folders_beside_the_splits_are_named(tmp_path: Path) -> None:
    tree(tmp_path, *classes("train/", "cat", "dog"), *classes("val/", "cat", "dog"), *classes("", "unlabelled"))
    assert find(tmp_path).remarks == ["not read, since it is none of the splits: unlabelled/"]
