"""Multiply-accumulates of operators, computed from the shapes of their inputs and outputs, for every file format."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = Sequence[int]


def convolution(output: Shape, kernel: Shape) -> int:
    """Count a convolution with the kernel ``[out, in per group, *sides]``."""
    return math.prod(output) * math.prod(kernel[1:])


def transposed_convolution(image: Shape, kernel: Shape) -> int:
    """Count a transposed convolution: each input value times its kernel ``[in, out per group, *sides]``."""
    return math.prod(image) * math.prod(kernel[1:])


def product(output: Shape, inner: int) -> int:
    """Count a product of matrices, or of stacks of matrices, whose inner dimension has ``inner`` elements."""
    return math.prod(output) * inner


def recurrence(steps: int, weights: Sequence[Shape]) -> int:
    """Count a recurrent layer that multiplies each of its weight matrices with ``steps`` vectors."""
    return steps * sum(map(math.prod, weights))


def attention(query: Shape, key: Shape, value: Shape) -> int:
    """Count the two products of scaled dot-product attention, ``[..., L, E]``, ``[..., S, E]`` and ``[..., S, V]``."""
    rows = math.prod(query[:-1])
    return rows * key[-2] * (query[-1] + value[-1])


def einsum(equation: str, shapes: Sequence[Shape]) -> int | None:
    """Count an einsum; None if it has an ellipsis or more than two operands.

    >>> einsum("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)])
    120
    """
    operands = equation.replace(" ", "").split("->")[0].split(",")
    if "." in equation or len(operands) > 2:
        return None
    sizes = {
        letter: size
        for letters, shape in zip(operands, shapes, strict=True)
        for letter, size in zip(letters, shape, strict=True)
    }
    return math.prod(sizes.values()) if len(operands) == 2 else 0


def is_spread(weight: Shape, output: Shape) -> bool:
    """Whether an operator can only use a weight element by element: it is a vector, or is broadcast over the output.

    An operator of an unknown kind with another weight may multiply matrices, so that its multiply-accumulates are not
    known.

    >>> is_spread((1, 8, 1, 1), (1, 8, 7, 7)), is_spread((49, 8), (1, 49, 8)), is_spread((3, 8), (1, 3))
    (True, True, False)
    """
    if sum(size > 1 for size in weight) < 2:
        return True
    along = zip(reversed(weight), reversed(output), strict=False)
    return len(weight) <= len(output) and all(size in (1, other) for size, other in along)
