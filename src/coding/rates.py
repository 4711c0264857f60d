"""The bits that a tensor's levels take in a packed file, as rate-aware quantization needs them."""

from __future__ import annotations

import numpy as np

from src.coding import levels as coded
from src.coding import mixing
from src.coding.mixed import MixedWriter


def level_bits(levels: np.ndarray, plane: tuple[int, int] = (1, 1)) -> np.ndarray:
    """Bits of each level by the profile ``small``, float32, of the shape of ``levels``.

    A level's bits depend on those coded before it. Their sum is what the matrix takes, but for the flags of its empty
    rows and columns, whose levels take none.

    Args:
        levels: Integers ``[rows, columns]``, 0 for a weight that is zero.
        plane: Width and elements of the image plane that the columns come from; ``(1, 1)`` if there is none.
    """
    writer = MixedWriter()
    matrix = coded.matrix(levels.astype(np.int32), *plane, costs=True)
    row = 0
    while row < len(levels):
        writer.reserve(levels.shape[1] * coded.ROOM_OF_A_LEVEL)
        row = coded.code_rows(writer.mixer, writer.coder, matrix, row)
    return matrix.costs.reshape(levels.shape)


def tensor_bits(levels: np.ndarray, plane: tuple[int, int] = (1, 1)) -> float:
    """Bits that a matrix of levels takes by the profile ``small``, its flags included."""
    writer = MixedWriter()
    writer.begin()
    writer.levels(levels.astype(np.int32), plane)
    return float(writer.mixer.totals[mixing.COST])
