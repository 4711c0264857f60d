"""A picture of what a network will see: a row of images for each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from src.contracts import DataSplits

if TYPE_CHECKING:
    from PIL import Image

COLUMNS, ROWS = 10, 40  # images of a class, and classes, at most
SMALLEST = 64  # pixels of the shorter side of an image on the sheet; smaller ones are enlarged
MARGIN, TEXT = 4, 110  # pixels around an image, and for the name of its class


def contact_sheet(splits: DataSplits) -> Image.Image:
    """The first training images of each class, exactly the pixels that are normalized, enlarged without smoothing."""
    from PIL import Image, ImageDraw

    _, height, width = splits.image_shape
    times = max(1, -(-SMALLEST // min(height, width)))
    wide, high = width * times + MARGIN, height * times + MARGIN
    classes = splits.classes[:ROWS]
    sheet = Image.new("RGB", (TEXT + COLUMNS * wide, len(classes) * high + MARGIN), (120, 140, 180))
    draw = ImageDraw.Draw(sheet)
    for label, name in enumerate(classes):
        places = (splits.train.labels == label).nonzero().flatten()[:COLUMNS]
        top = MARGIN + label * high
        draw.text((MARGIN, top), "\n".join(name[at : at + 16] for at in range(0, min(len(name), 48), 16)))
        for column, pixels in enumerate(splits.train.images[places]):
            shown = Image.fromarray(_colour(pixels).permute(1, 2, 0).contiguous().numpy())
            shown = shown.resize((width * times, height * times), Image.Resampling.NEAREST)
            sheet.paste(shown, (TEXT + column * wide, top))
    return sheet


def _colour(pixels: torch.Tensor) -> torch.Tensor:
    """The image ``[c, h, w]`` with three channels: colours as they are, else the first channel as grey."""
    return pixels if len(pixels) == 3 else pixels[:1].expand(3, -1, -1)
