"""Images as a network was trained on them, and logits as probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from src.command.prediction import normalized, predict, prepare, softmax
from src.contracts import InputError, ModelCard

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
