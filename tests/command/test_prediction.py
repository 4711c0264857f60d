"""Images as a network was trained on them, and logits as probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from src.command.prediction import normalized, predict, prepare, softmax
from src.contracts import InputError, ModelCard, Preparation
from tests.exported import CARD as COLOURS
from tests.exported import TARGETS, cnn

CARD = ModelCard(("dark", "bright"), (2, 1, 1), (0.5, 0.25), (0.25, 0.5), "")


def test_each_channel_is_normalized_by_its_own_mean_and_deviation() -> None:
    pixels = np.array([[[[1.0]], [[1.0]]], [[[0.5]], [[0.0]]]], np.float32)
    assert normalized(pixels, CARD).ravel().tolist() == [2.0, 1.5, 0.0, -0.5]
    assert normalized(pixels, CARD).dtype == np.float32


def test_probabilities_are_exponentials_over_their_sum_however_large_the_logits_are() -> None:
    logits = np.array([[0.0, np.log(3.0)], [1000.0, 1000.0 + np.log(3.0)]])
    assert np.allclose(softmax(logits), [[0.25, 0.75], [0.25, 0.75]])


def test_a_network_for_neither_grey_nor_colour_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images of 2 channels; grey and colour images have 1 and 3"):
        prepare(tmp_path / "image.png", CARD)


def test_no_class_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--top must be at least 1, and is 0"):
        predict(tmp_path / "model.onnx", [tmp_path / "image.png"], 0)


def test_an_image_is_resized_and_cropped_as_the_card_says(tmp_path: Path) -> None:
    """A grey ramp from left to right: a crop of half its width leaves the middle grey levels alone."""
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    stretched = ModelCard(("a", "b"), (1, 64, 64), (0.0,), (1.0,), "")
    cropped = replace(stretched, preparation=Preparation("bicubic", 0.5))
    whole, middle = (prepare(tmp_path / "ramp.png", card)[0, 0] for card in (stretched, cropped))
    assert whole.shape == middle.shape == (64, 64)
    assert whole.min() < 0.02
    assert whole.max() > 0.98
    assert middle.min() == pytest.approx(0.25, abs=0.01)
    assert middle.max() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": ("a", "b")}, "it names 2 classes, and gives 3 logits"),
        ({"std": (0.2, 0.0, 0.3)}, r"std\[1\] is 0.0, and must be a number from"),
    ],
)
def test_a_file_whose_card_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    file = tmp_path / "model.onnx"
    TARGETS["onnxruntime"].export(cnn(), torch.zeros(1, 3, 8, 8), file, replace(COLOURS, **changes), {})
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match=says):
        predict(file, [tmp_path / "image.png"], 1)
