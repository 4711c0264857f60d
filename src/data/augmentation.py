"""Random changes of training images, applied to whole batches on their device."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from src.contracts import Augmentation, InputError


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


class Torchvision:
    """One of torchvision's transforms (v2) by its name, drawn anew for each image.

    Args:
        name: Its class in ``torchvision.transforms.v2``: ``RandAugment``, ``TrivialAugmentWide``, ``ColorJitter``, …
        settings: Its arguments.

    Raises:
        ValueError: There is no such transform, or it does not take these arguments.
    """

    def __init__(self, *, name: str, **settings: Any) -> None:
        self.name = name
        self.transform = _transform(name, settings)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        images = images if images.dtype == torch.uint8 else images.round().clamp(0, 255).to(torch.uint8)
        with _drawing_from(generator):
            changed = [self.transform(image) for image in images]
        if any(image.shape != images.shape[1:] for image in changed):
            height, width = images.shape[2:]
            raise InputError(
                f"data.augmentation: {self.name} gives images of {'x'.join(map(str, changed[0].shape[1:]))}, and they "
                f"must stay {height}x{width}: give it that size"
            )
        return torch.stack(changed)


class Mixed:
    """torchvision's ``MixUp`` or ``CutMix``: pairs of images and of their labels in shares that are drawn.

    Args:
        name: ``MixUp`` or ``CutMix``.
        alpha: Both parameters of the Beta distribution of the shares, more than 0.

    Papers: Zhang et al. 2017, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899. As in torchvision, one share is
    drawn for a batch.
    """

    def __init__(self, *, name: str, alpha: float) -> None:
        if name not in ("MixUp", "CutMix"):
            raise ValueError(f"name must be MixUp or CutMix, and is {name}")
        if not alpha > 0:
            raise ValueError(f"alpha must be more than 0, and is {alpha}")
        self.name, self.alpha = name, alpha

    def __call__(
        self, images: Tensor, labels: Tensor, classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        transform = _transform(self.name, {"alpha": self.alpha, "num_classes": classes})
        with _drawing_from(generator):
            mixed, shares = transform(images.to(torch.float32), labels)
        return mixed, shares


def _transform(name: str, settings: dict[str, Any]) -> Any:
    """One of torchvision's transforms.

    Raises:
        ValueError: There is none of that name, or it does not take these settings.
    """
    from torchvision.transforms import v2

    known = [each for each, found in vars(v2).items() if isinstance(found, type) and issubclass(found, v2.Transform)]
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.5)
        raise ValueError(
            f"name: torchvision has no transform '{name}'" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    try:
        return getattr(v2, name)(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"name: torchvision's {name} does not take {settings} ({error})") from error


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let what draws from torch's global generators draw what ``generator`` determines, and leave no trace in them."""
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    devices = [generator.device] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
