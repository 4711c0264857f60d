"""Classify images with an exported file: ``python -m src.predict FILE IMAGE…``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src import command

if TYPE_CHECKING:
    import numpy as np

    from src.contracts import ModelCard

USAGE = "Classes, size and normalization are read from the file; its name or ending says which runtime reads it."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.predict", description=__doc__, epilog=USAGE)
    parser.add_argument("file", type=Path, help="an exported file, e.g. outputs/…/quantize_int8.onnxruntime.onnx")
    parser.add_argument("images", type=Path, nargs="+", metavar="image")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name for each image (3)")
    arguments = parser.parse_args()
    return command.run_command(lambda: predict(arguments.file, arguments.images, arguments.top))


def predict(file: Path, images: Sequence[Path], top: int) -> int:
    """Print a line an image: the likeliest classes with their probabilities."""
    import numpy as np

    from src.composition import target_of
    from src.contracts import InputError

    if top < 1:
        raise InputError(f"--top must be at least 1, and is {top}")
    target = target_of(file)
    card = target.read_card(file)
    pixels = np.concatenate([prepare(path, card) for path in images])
    logits = target.load(file)(pixels).astype(np.float64)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    for path, shares in zip(images, shifted / shifted.sum(1, keepdims=True), strict=True):
        best = np.argsort(-shares, kind="stable")[:top]
        said = "   ".join(f"{card.classes[at]} {100 * shares[at]:.1f} %" for at in best)
        print(f"{path.name}: {said}" if len(images) > 1 else said)
    return command.DONE


def prepare(path: Path, card: ModelCard) -> np.ndarray:
    """Read an image as the network was trained on it: ``[1, c, h, w]``, float32, normalized."""
    import numpy as np

    from src.contracts import InputError
    from src.data.image_folder import MODES, decode_images

    channels, height, width = card.image_shape
    if channels not in MODES:
        raise InputError(f"the network takes images of {channels} channels; grey and colour images have 1 and 3")
    pixels = decode_images([path], (height, width), MODES[channels], "predict").numpy() / np.float32(255)
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (card.mean, card.std))
    return (pixels - mean) / std


if __name__ == "__main__":
    sys.exit(main())
