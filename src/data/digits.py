"""The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from src.contracts import ImageSet
from src.data.images import ImageData


class Digits(ImageData):
    """scikit-learn's digits; needs no file and no network.

    Args:
        test_share: Share of the 1,797 images in the test set, in (0, 1).
        settings: Arguments of ``ImageData``.
    """

    name = "digits"

    def __init__(self, *, test_share: float, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0 < test_share < 1:
            raise ValueError(f"test_share must be in (0, 1), and is {test_share}")
        self.test_share = test_share

    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8).unsqueeze(1)
        everything = ImageSet(pixels, torch.from_numpy(digits.target).to(torch.int64))
        order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(self.split_seed))
        tests = round(self.test_share * len(everything))
        return everything.select(order[tests:]), everything.select(order[:tests]), [str(digit) for digit in range(10)]
