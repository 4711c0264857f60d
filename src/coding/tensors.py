"""How a tensor is written: as its values, as ranks in a codebook, as multiples of a step, or without its zeros.

What a tensor can be written as is found from its bits alone, so that what comes back is the same to the bit: -0.0 and
0.0 are two values, and so are two kinds of NaN.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.coding.streams import entropy_bits, ordered
from src.device.packed import CODEBOOK, INTEGERS, RAW, SPARSE, UNIFORM, Entry, Tensor, matrix_of
from src.device.packed_streams import DTYPES

CODEBOOK_MOST = 1 << 16  # entries
LEVEL_MOST = 1 << 28  # of a uniform level's size
CLOSE = 2.0  # two ways are measured if neither looks that many times cheaper
STEPS_TRIED = 8


@dataclass(frozen=True)
class Way:
    """A way to write a tensor.

    Attributes:
        number: ``RAW``, ``CODEBOOK``, ``UNIFORM`` or ``SPARSE``.
        levels: int32, the level of each element; None for ``RAW``.
        values: Bits that are written beside them: all values, the codebook, the step, or those that are not zero.
        zero: Place in the codebook of level 0.
        estimate: Bits that it takes, roughly.
    """

    number: int
    levels: np.ndarray | None
    values: np.ndarray
    zero: int
    estimate: float


def ways(tensor: Tensor) -> Iterator[Way]:
    """The ways in which a tensor can be written."""
    bits, width = tensor.bits, 8 * DTYPES[tensor.dtype]
    each = width - 6.0 if tensor.dtype not in INTEGERS else float(width)
    yield Way(RAW, None, bits, 0, each * bits.size)
    places = np.flatnonzero(bits)
    found = distinct(bits[places], CODEBOOK_MOST)
    if 0 < len(places) < bits.size:
        levels = (bits != 0).astype(np.int32)
        flags = entropy_bits(np.array([len(places), bits.size - len(places)]))
        yield Way(SPARSE, levels, bits[places], 0, flags + each * len(places))
    if found is None or (len(found) > 64 and 2 * len(found) > len(places)):
        return
    values, counts, ranks = _ranked(bits, places, found)
    zero = int(np.flatnonzero(values == 0)[0]) if len(places) < bits.size else int(np.argmax(counts))
    symbols = entropy_bits(counts)
    levels = (ranks - zero).astype(np.int32)
    yield Way(CODEBOOK, levels, values, zero, symbols + each * len(values) + 16)
    uniform = uniform_levels(values, tensor.dtype)
    if uniform is not None:
        step, multiples = uniform
        yield Way(UNIFORM, multiples[ranks].astype(np.int32), step, 0, symbols + 32)


def distinct(bits: np.ndarray, most: int) -> np.ndarray | None:
    """The distinct values of ``bits``, sorted; None if there are more than ``most``."""
    if bits.size > 8 * most and len(np.unique(bits[:: bits.size // (2 * most)])) > most:
        return None
    if bits.itemsize <= 2:
        counts = np.bincount(bits, minlength=1)
        return np.flatnonzero(counts).astype(bits.dtype)
    found = np.unique(bits)
    return found if len(found) <= most else None


def _ranked(bits: np.ndarray, places: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values in the order of the numbers that they stand for, their counts, and each element's rank."""
    if len(places) < bits.size:
        found = np.concatenate([np.zeros(1, bits.dtype), found])
    order = np.argsort(ordered(found), kind="stable")
    rank_of = np.empty(len(found), np.int32)
    rank_of[order] = np.arange(len(found), dtype=np.int32)
    ranks = np.full(bits.size, rank_of[0], np.int32)  # of zeros, if there are any
    ranks[places] = rank_of[np.searchsorted(found, bits[places])]
    return found[order], np.bincount(ranks, minlength=len(found)), ranks


def uniform_levels(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The step and the multiples of it that give ``values`` to the bit; None if there is no such step.

    Args:
        values: Bits of the distinct values, sorted.
        dtype: ``F32``, or an integer format, whose values are their own multiples.
    """
    if dtype in INTEGERS:
        signed = values.astype(np.int64) if dtype[0] in "UB" else values.view(values.dtype.name[1:]).astype(np.int64)
        fits = dtype != "U64" and signed.min() > -LEVEL_MOST and signed.max() < LEVEL_MOST
        return (np.zeros(0, values.dtype), signed) if fits else None
    if dtype != "F32":
        return None
    numbers = values.view(np.float32).astype(np.float64)
    if len(numbers) < 2 or not np.isfinite(numbers).all():
        return None
    guess = float(np.min(np.abs(numbers[numbers != 0]))) if numbers.any() else 0.0
    gap = float(np.min(np.diff(numbers)))
    for start in dict.fromkeys([guess, gap, *(guess / count for count in range(2, STEPS_TRIED))]):
        for step in _near(numbers, start):
            multiples = np.rint(numbers / np.float64(step)).astype(np.int64)
            if (multiples.astype(np.float32) * step).view(np.uint32).tobytes() == values.tobytes():
                return np.array([step]).view(np.uint32), multiples
    return None


def _near(numbers: np.ndarray, start: float) -> Iterator[np.float32]:
    """Steps close to ``start``, first itself, then what the largest value says of it."""
    largest = float(np.max(np.abs(numbers)))
    if not 0 < start <= largest or largest / start > LEVEL_MOST:
        return
    yield np.float32(start)
    finer = np.float32(largest / round(largest / start))
    for step in (finer, np.nextafter(finer, np.float32(0)), np.nextafter(finer, np.float32(np.inf))):
        if step > 0:
            yield step


def cheapest(tensor: Tensor, entry: Entry, measure: Any) -> Way:
    """The way that takes the fewest bits; where two look alike, both are measured.

    Args:
        tensor: At least one element.
        entry: What the file will say of it.
        measure: Gives the bits of a way.
    """
    found = list(ways(tensor))
    least = min(way.estimate for way in found)
    close = [way for way in found if way.estimate <= CLOSE * least + 64]
    same = {way.number for way in close} == {CODEBOOK, UNIFORM}
    if same:  # the same levels, and one number in place of a codebook
        close = [way for way in close if way.number == UNIFORM or tensor.dtype not in INTEGERS]
        close = [min(close, key=lambda way: way.values.size)]
    return close[0] if len(close) == 1 else min(close, key=measure)


def write(way: Way, tensor: Tensor, entry: Entry, writer: Any) -> None:
    """Write the content of a tensor; ``src.device.packed.tensor_of`` reads it."""
    writer.begin()
    if way.levels is None:
        writer.values(way.values, tensor.dtype)
    else:
        levels = way.levels.reshape(matrix_of(entry))
        if way.number == CODEBOOK:
            writer.number(len(way.values), way.levels.size)
            writer.number(way.zero, max(0, len(way.values) - 1))
            writer.codebook(way.values, tensor.dtype)
        elif way.number == UNIFORM and way.values.size:
            writer.values(way.values, tensor.dtype)
        writer.levels(levels, entry.plane)
        if way.number == SPARSE:
            writer.values(way.values, tensor.dtype)
    writer.finish()


def checksum(bits: np.ndarray) -> int:
    """The low 16 bits of the CRC-32 of a tensor's bytes."""
    return zlib.crc32(bits.tobytes()) & 0xFFFF
