"""What is wrong with a data set, a line each."""

from __future__ import annotations

from pathlib import Path

import torch

from src.contracts import DataSplits, ImageSet
from src.data.findings import of_labels, of_pixels
from src.data.splitting import Looks

CLASSES = ("ant", "bee")


def part(*images: tuple[int, int]) -> ImageSet:
    """Images of two values, by (label, value)."""
    pixels = torch.zeros(len(images), 1, 8, 8, dtype=torch.uint8)
    for at, (_, value) in enumerate(images):
        pixels[at, :, :4], pixels[at, :, 4:] = value, 255
    return ImageSet(pixels, torch.tensor([label for label, _ in images], dtype=torch.int64))


def splits(train: ImageSet, validation: ImageSet, test: ImageSet) -> DataSplits:
    return DataSplits("x", CLASSES, train, validation, test, train, (0.0,), (1.0,), None, "")


def lines(train: ImageSet, validation: ImageSet, test: ImageSet) -> list[str]:
    parts = {"train": train, "validation": validation, "test": test}
    files = {name: [Path(f"/set/{name}/{at}.png") for at in range(len(each))] for name, each in parts.items()}
    return of_pixels(splits(**parts), {name: Looks.at(each) for name, each in parts.items()}, files, Path("/set"))


GOOD = part((0, 1), (1, 2)), part((0, 3), (1, 4)), part((0, 5), (1, 6))


def test_a_sound_set_gives_no_line() -> None:
    assert of_labels(CLASSES, *GOOD) == []
    assert lines(*GOOD) == []


def test_a_class_of_one_image_is_one_line() -> None:
    assert of_labels(CLASSES, part((0, 1), (1, 2), (0, 3)), part((0, 4)), part((0, 5))) == [
        "one image is all that there is of bee: nothing can be said of such a class; add images"
    ]


def test_a_class_that_is_missing_from_a_split_is_named() -> None:
    assert of_labels(CLASSES, part((0, 1), (1, 2), (1, 3)), part((0, 4)), part((0, 5))) == [
        "no validation image of bee",
        "no test image of bee",
    ]


def test_a_skewed_set_points_to_balanced_accuracy() -> None:
    many = part(*[(0, at) for at in range(20)], (1, 50), (1, 51))
    (line,) = of_labels(CLASSES, many, GOOD[1], GOOD[2])
    assert line == "classes have 2 to 20 training images: read balanced_accuracy beside accuracy"


def test_test_images_that_were_trained_on_are_counted() -> None:
    (line,) = lines(GOOD[0], GOOD[1], part((0, 1), (1, 2), (1, 9)))
    assert line == (
        "2 of 3 test images are training images, too: their accuracy promises too much (test/0.png equals train/0.png)"
    )


def test_test_images_that_chose_the_weights_are_counted() -> None:
    (line,) = lines(GOOD[0], GOOD[1], part((0, 3), (1, 7)))
    assert line.startswith("1 of 2 test images are validation images, too")
    assert line.endswith("(test/0.png equals validation/0.png)")


def test_an_image_in_two_classes_is_named() -> None:
    assert lines(part((0, 1), (1, 2), (1, 1)), GOOD[1], GOOD[2]) == [
        "1 image stands in two classes (train/2.png equals train/0.png)"
    ]


def test_images_that_repeat_within_a_class_are_counted() -> None:
    assert lines(part((0, 1), (1, 2), (0, 1), (0, 1)), GOOD[1], GOOD[2]) == [
        "2 images repeat another one of the same class and split (train/2.png equals train/0.png)"
    ]


def test_images_of_one_colour_are_found() -> None:
    flat = part((0, 255), (1, 2))
    assert Looks.at(flat).constant.tolist() == [True, False]
    assert lines(flat, GOOD[1], GOOD[2]) == ["1 of 6 images have one colour in all their pixels (train/0.png)"]


def test_a_set_that_is_dark_throughout_is_said() -> None:
    bright = part((0, 50), (1, 90))
    (line,) = lines(ImageSet(bright.images // 17, bright.labels), GOOD[1], GOOD[2])
    assert line.startswith("the brightest pixel of the training images is 15 of 255")
