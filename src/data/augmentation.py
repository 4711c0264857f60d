"""Random changes of training images, applied to whole batches on their device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from src.contracts import Augmentation


class Flip:
    """Mirror each image left to right with probability 0.5."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        flips = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
        return torch.where(flips[:, None, None, None], images.flip(3), images)


class ShiftedCrop:
    """Shift each image by up to ``pixels`` in both directions; the mirrored border fills the edges.

    Args:
        pixels: Largest shift in pixels, at least 1 and less than the image's side.
    """

    def __init__(self, *, pixels: int) -> None:
        if pixels < 1:
            raise ValueError(f"pixels must be at least 1, and is {pixels}")
        self.pixels = pixels

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        padded = pad(images.float(), [self.pixels] * 4, mode="reflect").to(images.dtype)
        shifts = torch.randint(2 * self.pixels + 1, (2, count), generator=generator, device=generator.device)
        rows = shifts[0, :, None] + torch.arange(height, device=images.device)
        columns = shifts[1, :, None] + torch.arange(width, device=images.device)
        picked = torch.arange(count, device=images.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[picked, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Affine:
    """Rotate, scale and shift each image at random, with bilinear interpolation and repeated edges.

    Args:
        degrees: Largest rotation in either direction.
        scale: Smallest and largest magnification.
        shift: Largest shift as a share of the image's side.
    """

    def __init__(self, *, degrees: float, scale: Sequence[float], shift: float) -> None:
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be a smallest and a largest magnification, and is {list(scale)}")
        self.degrees, self.scale, self.shift = degrees, (scale[0], scale[1]), shift

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count = len(images)
        drawn = torch.rand(4, count, generator=generator, device=generator.device)
        angle = torch.deg2rad((2 * drawn[0] - 1) * self.degrees)
        zoom = self.scale[0] + drawn[1] * (self.scale[1] - self.scale[0])
        cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        shifts = (2 * drawn[2:] - 1) * 2 * self.shift
        matrix = torch.stack([cosine, -sine, shifts[0], sine, cosine, shifts[1]], 1).view(count, 2, 3)
        grid = affine_grid(matrix, list(images.shape), align_corners=False)
        return grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


class InOrder:
    """Apply one augmentation after another.

    Args:
        steps: The augmentations, in order; each draws from the same generator.
    """

    def __init__(self, *, steps: Sequence[Augmentation]) -> None:
        self.steps = list(steps)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for step in self.steps:
            images = step(images, generator)
        return images
