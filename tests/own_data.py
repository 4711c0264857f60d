"""A user's own data set class."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from src.contracts import ImageSet
from src.data.images import ImageData


class Stripes(ImageData):
    """Horizontal or vertical stripes, 1x12x12."""

    name = "stripes"

    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        labels = torch.arange(200) % 2
        lines = (torch.arange(12) % 4 < 2).float() * 255
        across, down = lines[:, None].expand(12, 12), lines[None].expand(12, 12)
        images = torch.where(labels[:, None, None, None] == 0, across, down).to(torch.uint8)
        return ImageSet(images[:160], labels[:160]), ImageSet(images[160:], labels[160:]), ("across", "down")
