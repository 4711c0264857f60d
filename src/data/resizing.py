"""Images of any size, brought to one size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.contracts import Preparation

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def resized(image: Image.Image, size: tuple[int, int], how: Preparation) -> Image.Image:
    """The image with ``size``, ``(height, width)``, in the manner of ``how``."""
    from PIL.Image import Resampling

    (height, width), method = size, Resampling[how.interpolation.upper()]
    if how.crop is not None:
        return _cut(image, size, how.crop, method)
    if how.fit is not None:
        return _whole(image, size, how, method)
    return image if image.size == (width, height) else image.resize((width, height), method)


def resized_pixels(images: Tensor, size: tuple[int, int], how: Preparation) -> Tensor:
    """Images in memory, ``[n, c, h, w]`` of uint8, brought to ``size`` exactly as their files would be.

    Raises:
        ValueError: The images have neither 1 nor 3 channels.
    """
    import numpy as np
    import torch
    from PIL import Image

    if tuple(images.shape[2:]) == size:
        return images
    count, channels = images.shape[:2]
    if channels not in (1, 3):
        raise ValueError(f"images of {channels} channels cannot be resized; grey and colour images have 1 and 3")
    pixels = np.empty((count, *size, channels), np.uint8)
    for at, each in enumerate(images.permute(0, 2, 3, 1).contiguous().numpy()):
        image = Image.fromarray(each[:, :, 0] if channels == 1 else each)
        pixels[at] = np.asarray(resized(image, size, how)).reshape(pixels.shape[1:])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _cut(image: Image.Image, size: tuple[int, int], crop: float, method: Image.Resampling) -> Image.Image:
    """Resize the shorter side to the longest side of ``size`` over ``crop`` and cut out the middle."""
    height, width = size
    side, shorter = int(max(size) / crop), min(image.size)
    wide, high = (side if length == shorter else int(side * length / shorter) for length in image.size)
    larger = image.resize((wide, high), method)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return larger.crop((left, top, left + width, top + height))


def _whole(image: Image.Image, size: tuple[int, int], how: Preparation, method: Image.Resampling) -> Image.Image:
    """Resize the whole image until it fits, and centre it on the background; ``pad`` does not enlarge it."""
    from PIL import Image

    height, width = size
    scale = min(width / image.width, height / image.height)
    if how.fit == "pad":
        scale = min(1.0, scale)
    wide, high = (max(1, round(length * scale)) for length in image.size)
    inner = image if image.size == (wide, high) else image.resize((wide, high), method)
    grey = how.background or 0
    canvas = Image.new(image.mode, (width, height), grey if image.mode == "L" else (grey,) * 3)
    canvas.paste(inner, ((width - wide) // 2, (height - high) // 2))
    return canvas
