"""The logistic function and its inverse as tables that are the same to the bit on every machine.

Encoder and decoder must compute the same probabilities. Additions, multiplications and divisions of float64 are rounded
alike by IEEE 754; ``exp`` and ``log`` of a C library are not. So both tables are computed here from these operations.
"""

from __future__ import annotations

import numpy as np

LIMIT = 12.0  # logits beyond are those of this limit
STEPS = 4096  # of the table of the logistic function, between -LIMIT and LIMIT
PROBABILITIES = 65536  # of the table of its inverse


def exponential(x: np.ndarray) -> np.ndarray:
    """``exp(x)`` for ``|x| <= 12``: a Taylor series of ``x / 1024``, squared ten times."""
    small, term = x / 1024.0, np.ones_like(x)
    total = np.ones_like(x)
    for n in range(1, 10):
        term = term * small / n
        total = total + term
    for _ in range(10):
        total = total * total
    return total


def logarithm(x: np.ndarray) -> np.ndarray:
    """``ln(x)`` for ``x > 0``: the exponent, and the series of the inverse hyperbolic tangent of the mantissa."""
    mantissa, exponent = np.frexp(x)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    power, total = ratio, np.zeros_like(ratio)
    for n in range(1, 40, 2):
        total = total + power / n
        power = power * (ratio * ratio)
    return 2.0 * total + exponent * 0.6931471805599453


def squash_table() -> np.ndarray:
    """``1 / (1 + exp(-x))`` at ``STEPS + 1`` points from ``-LIMIT`` to ``LIMIT``, float64."""
    points = (np.arange(STEPS + 2) - STEPS // 2) * (2.0 * LIMIT / STEPS)
    return 1.0 / (1.0 + exponential(-points))


def stretch_table() -> np.ndarray:
    """``ln(p / (1 - p))`` at the middle of each of ``PROBABILITIES`` intervals of [0, 1], float64."""
    p = (np.arange(PROBABILITIES) + 0.5) / PROBABILITIES
    return logarithm(p) - logarithm(1.0 - p)
