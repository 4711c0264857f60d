"""The profiles ``fast`` and ``board``: what is not zero as gaps and levels, coded symbol by symbol in lanes.

Rows and columns without a weight are left out, runs of zeros are one number each, and matrices go by rows or columns,
whichever takes less. ``board`` has more lanes, for a reader that works on all of them in one numpy operation.
"""

from __future__ import annotations

import numpy as np

from src.coding.ranges import decode_symbols, encode_symbols, shares
from src.device import packed
from src.device.packed_streams import (
    BY_COLUMNS,
    CODED,
    CONSTANT,
    DENSE,
    DTYPES,
    LEAST,
    SMALL_NUMBERS,
    STORED,
    PackedError,
    Streams,
    number_bytes,
)

LANES = {packed.FAST: 4, packed.BOARD: 64}
SYMBOLS_OF_A_LANE = 500  # at least, so that the lanes' states cost little


def entropy_bits(counts: np.ndarray) -> float:
    """Bits of symbols that occur so often, if each took ``-log2`` of its share."""
    counts = counts[counts > 0].astype(np.float64)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def folded(levels: np.ndarray) -> np.ndarray:
    """0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ...; int64."""
    levels = levels.astype(np.int64)
    return np.where(levels < 0, -2 * levels - 1, 2 * levels)


def ordered(bits: np.ndarray) -> np.ndarray:
    """Keys that sort the bits of floats as their numbers: negative ones, -0.0, 0.0, positive ones."""
    signed = bits.astype(np.int64) if bits.itemsize < 8 else bits.view(np.int64)
    top = 1 << (8 * bits.itemsize - 1)
    if bits.itemsize < 8:
        return np.where(signed & top, top - 1 - signed, signed)
    return np.where(signed < 0, np.int64(-(2**63)) - signed - 1, signed)


class StreamsReader(Streams):
    """The board's reader with its innermost loop compiled."""

    def decoded(self, table: np.ndarray, states: np.ndarray, words: np.ndarray, count: int) -> np.ndarray:
        """Decode ``count`` symbols."""
        result = np.empty(count, np.uint8)
        symbol_at = np.repeat(np.arange(len(table), dtype=np.uint8), table)
        if not decode_symbols(result, table, symbol_at, states.copy(), words.astype(np.uint16)):
            raise PackedError("a stream of the file was cut off")
        return result


class StreamsWriter:
    """Writes the content of tensors; each method has its counterpart in the reader.

    Args:
        profile: ``FAST`` or ``BOARD``.
    """

    def __init__(self, profile: int) -> None:
        self.lanes = LANES.get(profile, 1)
        self.out = bytearray()
        self.start = 0

    def bits(self) -> float:
        """Bits that are written."""
        return 8.0 * len(self.out)

    def begin(self) -> None:
        """Start a tensor."""
        self.start = len(self.out)

    def finish(self) -> None:
        """End a tensor, and put its length before it."""
        self.out[self.start : self.start] = number_bytes(len(self.out) - self.start)

    def close(self) -> bytes:
        """All bytes."""
        return bytes(self.out)

    def number(self, value: int, most: int) -> None:
        """A whole number from 0 to ``most``."""
        self.out += number_bytes(value)

    def values(self, bits: np.ndarray, dtype: str) -> None:
        """The bits of values, a stream for each byte of an element."""
        planes = np.ascontiguousarray(bits).view(np.uint8).reshape(-1, DTYPES[dtype])
        for plane in range(planes.shape[1]):
            self.symbols(np.ascontiguousarray(planes[:, plane]))

    def codebook(self, bits: np.ndarray, dtype: str) -> None:
        """The bits of a codebook's values, sorted."""
        self.values(bits, dtype)

    def levels(self, levels: np.ndarray, plane: tuple[int, int]) -> None:
        """A matrix of levels, int32 ``[rows, columns]``."""
        by_rows = self._matrix(levels, 0)
        if min(levels.shape) > 1:
            by_columns = self._matrix(np.ascontiguousarray(levels.T), BY_COLUMNS)
            by_rows = min(by_rows, by_columns, key=len)
        self.out += by_rows

    def _matrix(self, levels: np.ndarray, flags: int) -> bytes:
        """A matrix by its rows; a transposed one says so in ``flags``, and its rows are the tensor's columns."""
        part = type(self)(-1)
        part.lanes = self.lanes
        flat = levels.reshape(-1)
        places = np.flatnonzero(flat)
        if 4 * len(places) > 3 * flat.size:
            part.out.append(flags | DENSE)
            part.numbers(folded(flat))
            return bytes(part.out)
        part.out.append(flags)
        lines, across = places // levels.shape[1], places % levels.shape[1]
        kept_lines, kept_across = _used(lines, levels.shape[0]), _used(across, levels.shape[1])
        for kept in (kept_across, kept_lines) if flags else (kept_lines, kept_across):
            part.numbers(_runs(kept))
        new_line, new_across = np.cumsum(kept_lines) - 1, np.cumsum(kept_across) - 1
        places = new_line[lines] * int(kept_across.sum()) + new_across[across]
        part.gaps(np.diff(places, prepend=-1) - 1, flat[flat != 0])
        return bytes(part.out)

    def gaps(self, gaps: np.ndarray, levels: np.ndarray) -> None:
        """Zeros before each level that is not zero, and these levels."""
        self.numbers(gaps)
        self.numbers(folded(levels) - 1)

    def numbers(self, numbers: np.ndarray) -> None:
        """Whole numbers below 2^31: a symbol for the size of each, and the lower bits of those from 16 on."""
        numbers = numbers.astype(np.int64)
        self.out += number_bytes(len(numbers))
        if not len(numbers):
            return
        large = numbers >= SMALL_NUMBERS
        length = np.where(large, np.frexp(np.maximum(numbers, 1).astype(np.float64))[1] - 2, 0).astype(np.int64)
        self.symbols(
            np.where(large, SMALL_NUMBERS + (length - 3) * 2 + ((numbers >> length) & 1), numbers).astype(np.uint8)
        )
        if large.any():
            first = np.cumsum(length) - length
            bits = np.zeros(int(length.sum()), np.uint8)
            for place in range(int(length.max())):
                has = length > place
                bits[first[has] + place] = (numbers[has] >> (length[has] - 1 - place)) & 1
            self.out += np.packbits(bits).tobytes()

    def symbols(self, symbols: np.ndarray) -> None:
        """Symbols, uint8: one that is always the same, coded, or stored, whichever takes least."""
        if not len(symbols):
            return
        counts = np.bincount(symbols, minlength=int(symbols.max()) + 1)
        if counts[symbols[0]] == len(symbols):
            self.out += bytes([CONSTANT, symbols[0]])
            return
        coded = self.coded(symbols, counts) if entropy_bits(counts) < 8.0 * len(symbols) else None
        if coded is None or len(coded) >= len(symbols):
            self.out += bytes([STORED]) + symbols.tobytes()
        else:
            self.out += bytes([CODED]) + coded

    def coded(self, symbols: np.ndarray, counts: np.ndarray) -> bytes:
        """Symbols by the range coder: the table, the lanes' states, the words."""
        table = shares(counts)
        lanes = max(1, min(self.lanes, len(symbols) // SYMBOLS_OF_A_LANE))
        states = np.full(lanes, LEAST, np.int64)
        words = np.zeros(len(symbols) + lanes, np.uint16)
        at = encode_symbols(symbols, table, np.cumsum(table) - table, states, words)
        head = number_bytes(len(table) - 1) + b"".join(number_bytes(int(share)) for share in table)
        head += number_bytes(lanes) + number_bytes(len(words) - at)
        return head + states.astype("<u4").tobytes() + words[at:].astype("<u2").tobytes()


def _used(places: np.ndarray, count: int) -> np.ndarray:
    """Which of ``count`` rows hold one of ``places``."""
    used = np.zeros(count, bool)
    used[places] = True
    return used


def _runs(kept: np.ndarray) -> np.ndarray:
    """Lengths of runs: kept, left out, kept, ...; none if all are kept or leaving out saves too little."""
    if kept.sum() * 64 > len(kept) * 63:
        kept[:] = True
        return np.zeros(0, np.int64)
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
    runs = np.diff(np.concatenate([[0], edges] if kept[-1] else [[0], edges, [len(kept)]]))
    return runs[1:] if kept[0] else np.concatenate([[0], runs])
