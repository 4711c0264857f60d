"""The plane of the image that a matrix's columns come from, found from where its weights lie."""

from __future__ import annotations

import math

import numpy as np

from src.device.packed import Tensor

LEAST_SIDE, LEAST_ROWS = 3, 8
CLEAR = 0.1  # correlation of columns one line apart, at least


def plane_of(tensor: Tensor) -> tuple[int, int]:
    """Width and elements of the plane of a matrix, ``(1, 1)`` if its columns are no image's pixels.

    The first dense layer of an image network has a column for each pixel of each channel. Columns of neighbouring
    pixels hold about as many weights that are not zero, so that the counts of columns one line apart correlate.
    """
    if len(tensor.shape) != 2 or tensor.shape[0] < LEAST_ROWS:
        return 1, 1
    columns = tensor.shape[1]
    counts = np.count_nonzero(tensor.bits.reshape(tensor.shape), axis=0).astype(np.float64)
    best, plane = CLEAR, (1, 1)
    for side in range(LEAST_SIDE, math.isqrt(columns) + 1):
        if columns % (side * side):
            continue
        lines = counts.reshape(-1, side, side)
        correlation = _correlation(lines[:, 1:], lines[:, :-1])
        if correlation > best:
            best, plane = correlation, (side, side * side)
    return plane


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of two arrays; 0 if either is constant."""
    one, other = one.reshape(-1) - one.mean(), other.reshape(-1) - other.mean()
    norm = math.sqrt(float((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / norm if norm else 0.0
