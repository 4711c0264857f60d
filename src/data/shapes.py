"""Drawn images of CIFAR's size, for trials without any data and without the internet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from src.contracts import ImageSet
from src.data.images import ImageData

CLASSES = ("disc", "ring", "square", "frame", "triangle", "diamond", "cross", "bars", "checks", "crescent")


def draw(labels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Draw one shape in each image, with random colours, place, size and rotation, and add noise.

    Args:
        labels: Indices into ``CLASSES``, ``[n]``.
        side: Height and width of the images in pixels.
        generator: Source of everything random.

    Returns:
        ``[n, 3, side, side]``, uint8.
    """
    count = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    turn = uniform(-math.pi / 8, math.pi / 8, 1, 1)
    size = uniform(0.4, 0.75, 1, 1)
    dx, dy = x - uniform(-0.3, 0.3, 1, 1), y - uniform(-0.3, 0.3, 1, 1)
    u = (torch.cos(turn) * dx + torch.sin(turn) * dy) / size
    v = (torch.cos(turn) * dy - torch.sin(turn) * dx) / size
    radius, square = torch.sqrt(u**2 + v**2), torch.maximum(u.abs(), v.abs())
    inside = torch.stack(
        [
            radius < 0.9,
            (radius < 0.95) & (radius > 0.6),
            square < 0.8,
            (square < 0.85) & (square > 0.55),
            (v < 0.7) & (v > 2 * u.abs() - 0.9),
            u.abs() + v.abs() < 1,
            (square < 0.9) & (torch.minimum(u.abs(), v.abs()) < 0.25),
            (square < 0.9) & (torch.sin(9 * u) > 0),
            (square < 0.9) & (torch.sin(6 * u) * torch.sin(6 * v) > 0),
            (radius < 0.9) & ((u - 0.4) ** 2 + v**2 > 0.5),
        ]
    )[labels, torch.arange(count)]
    ground, ink = uniform(0, 1, 3, 1, 1), uniform(0, 1, 3, 1, 1)
    ink = torch.where((ink - ground).abs().amax(1, keepdim=True) < 0.35, 1 - ground, ink)
    noise = 0.12 * torch.randn(count, 3, side, side, generator=generator)
    pixels = torch.where(inside[:, None], ink, ground) + noise
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


class Shapes(ImageData):
    """Ten drawn shapes in colour; the same ``draw_seed`` gives the same images.

    Args:
        train_images, test_images: Number of images to draw, at least 10 each.
        side: Height and width of the images in pixels, at least 8.
        draw_seed: Seed of the drawing.
        settings: Arguments of ``ImageData``.
    """

    name = "shapes"

    def __init__(self, *, train_images: int, test_images: int, side: int, draw_seed: int, **settings: Any) -> None:
        super().__init__(**settings)
        if min(train_images, test_images) < 10 or side < 8:
            raise ValueError("train_images and test_images must be at least 10, and side at least 8")
        self.counts = (train_images, test_images)
        self.side, self.draw_seed = side, draw_seed

    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        generator = torch.Generator().manual_seed(self.draw_seed)
        parts = []
        for count in self.counts:
            labels = torch.arange(count) % len(CLASSES)
            drawn = [draw(chunk, self.side, generator) for chunk in labels.split(2000)]
            parts.append(ImageSet(torch.cat(drawn), labels))
        return parts[0], parts[1], CLASSES
