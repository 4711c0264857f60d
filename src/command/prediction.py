"""Images classified with an exported file, in its runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.command.composition import target_of
from src.contracts import InputError, ModelCard
from src.data.decoding import decode_images
from src.data.pixels import MODES


@dataclass(frozen=True)
class Prediction:
    """What an image shows.

    Attributes:
        image: The image's file.
        classes: The likeliest classes with their probabilities, the likeliest first.
    """

    image: Path
    classes: Sequence[tuple[str, float]]


def predict(file: Path, images: Sequence[Path], top: int, *, trust: bool = False) -> list[Prediction]:
    """Classify images with an exported file.

    Args:
        file: The exported file.
        images: Files of images.
        top: Number of classes to name for each image, at least 1.
        trust: Whether the ``config.yaml`` beside the file may name any class.

    Raises:
        InputError: A file is missing or cannot be read, or ``top`` is less than 1.
    """
    if top < 1:
        raise InputError(f"--top must be at least 1, and is {top}")
    target = target_of(file, trust=trust)
    card = target.read_card(file)
    pixels = np.concatenate([prepare(path, card) for path in images])
    logits = target.load(file)(pixels)
    if logits.shape != (len(images), len(card.classes)):
        raise InputError(
            f"{file} is damaged: it names {len(card.classes)} classes, and gives {logits.shape[-1]} logits"
        )
    probabilities = softmax(logits.astype(np.float64))
    return [
        Prediction(path, [(card.classes[at], float(row[at])) for at in np.argsort(-row, kind="stable")[:top]])
        for path, row in zip(images, probabilities, strict=True)
    ]


def prepare(path: Path, card: ModelCard) -> np.ndarray:
    """Read an image as the network was trained on it: ``[1, c, h, w]``, float32, normalized."""
    channels, height, width = card.image_shape
    if channels not in MODES:
        raise InputError(f"the network takes images of {channels} channels; grey and colour images have 1 and 3")
    decoded = decode_images([path], (height, width), MODES[channels], "predict", card.preparation).numpy()
    return normalized(decoded / np.float32(255), card)


def normalized(pixels: np.ndarray, card: ModelCard) -> np.ndarray:
    """``(pixels - mean) / std`` for each channel; ``pixels`` are ``[n, c, h, w]``, float32, in [0, 1]."""
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (card.mean, card.std))
    return (pixels - mean) / std


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities ``[n, classes]`` of ``logits [n, classes]``: ``exp(logit)`` over the sum of a row's."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))  # the largest becomes exp(0): none overflows
    return shifted / shifted.sum(1, keepdims=True)
