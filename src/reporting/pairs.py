"""Two files on the same test images: which images one of them loses, and how sure the difference of accuracies is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054  # the 97.5th percentile of the normal distribution


@dataclass(frozen=True)
class Interval:
    """A difference of two accuracies, with its 95 % confidence interval.

    Attributes:
        change: Share of images that are right after, less the share that are right before.
        low, high: Ends of the interval.
        lost, won: Images that only the first, and only the second, classifies correctly.
        images: Number of images.
    """

    change: float
    low: float
    high: float
    lost: int
    won: int
    images: int


def paired_interval(lost: int, won: int, images: int) -> Interval:
    """The interval of a difference of two proportions of the same images.

    With ``n`` images, ``b`` lost and ``c`` won, half an image is added to each of the four cells:
    ``d = (c - b) / (n + 2)``, ``d ± 1.96 sqrt((b + c + 1) - (c - b)² / (n + 2)) / (n + 2)``, within [-1, 1].

    Args:
        lost: Images that only the first file classifies correctly.
        won: Images that only the second one does.
        images: Number of images, at least 1.

    Raises:
        ValueError: More images changed than there are.

    Paper: Agresti and Min 2005, Statistics in Medicine 24:729, section 4 (adjusted Wald interval). No deviation.
    """
    if min(lost, won) < 0 or lost + won > images or images < 1:
        raise ValueError(f"{lost} lost and {won} won of {images} images cannot be")
    total = images + 2
    centre = (won - lost) / total
    half = Z95 * math.sqrt(max(0.0, lost + won + 1 - (won - lost) ** 2 / total)) / total
    return Interval((won - lost) / images, max(-1.0, centre - half), min(1.0, centre + half), lost, won, images)


def compared(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> Interval:
    """The change of accuracy from one file's predicted classes to another's; all are ``[images]`` of class numbers."""
    right_before, right_after = before == labels, after == labels
    lost, won = int((right_before & ~right_after).sum()), int((~right_before & right_after).sum())
    return paired_interval(lost, won, len(labels))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many images of each class are taken for each class: ``[classes, classes]``, row = label."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def flipped(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[list[int], list[int]]:
    """The numbers of the images that are lost, and of those that are won."""
    right_before, right_after = before == labels, after == labels
    lost, won = right_before & ~right_after, ~right_before & right_after
    return np.flatnonzero(lost).tolist(), np.flatnonzero(won).tolist()


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The numbers of the points that no other beats: none has less of the first and as much of the second, or more.

    Args:
        points: Pairs of a cost (less is better) and a gain (more is better).

    Returns:
        The front in order of cost; of equal points all.
    """

    def beaten(at: int) -> bool:
        cost, gain = points[at]
        return any(c <= cost and g >= gain and (c < cost or g > gain) for c, g in points)

    return sorted((at for at in range(len(points)) if not beaten(at)), key=lambda at: points[at])
