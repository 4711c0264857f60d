"""The content of tensors in a packed file, as the profiles ``fast`` and ``board`` write it."""

from typing import Tuple

import numpy as np

DTYPES = {  # bytes of an element; the place in this list is the number in the file
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1},
    **{"F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "C64": 8},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}
ONE_BITS = 12  # of a probability in a table of the range coder
ONE = 1 << ONE_BITS
LEAST = 1 << 16  # least state of a lane
LANES_MOST = 1 << 12
CONSTANT, CODED, STORED = range(3)  # how symbols are written
DENSE, BY_COLUMNS = 1, 2  # flags of a matrix
SMALL_NUMBERS = 16  # that are symbols themselves


class PackedError(Exception):
    """The file is no packed file, is damaged, or claims what it cannot hold; the message says which, in one line."""


class Bytes:
    """Reads a file from its start; whatever is not there is an error.

    Args:
        data: All bytes.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count < 0 or count > len(self.data) - self.at:
            raise PackedError("the file was cut off, or a length in it is wrong")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def number(self, most: int = 1 << 62) -> int:
        """A whole number, seven bits a byte, the lowest first; the last byte is below 128."""
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise PackedError("a number of the file is longer than 9 bytes")
        if value > most:
            raise PackedError("the file claims {:,} where at most {:,} are possible".format(value, most))
        return value

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(len(self.data) - self.at)


class Streams:
    """Reads the content of tensors as the profiles ``fast`` and ``board`` write it.

    Args:
        data: Where the content starts.
    """

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.end = data.at

    def position(self) -> float:
        """Bytes that were read."""
        return float(self.data.at)

    def begin(self) -> None:
        """Start a tensor: its length comes first."""
        length = self.data.number()
        self.end = self.data.at + length
        if self.end > len(self.data.data):
            raise PackedError("the file was cut off")

    def finish(self) -> None:
        """End a tensor; its length must be what was read."""
        if self.data.at != self.end:
            raise PackedError("the content of a tensor has another length than the file says")

    def number(self, most: int) -> int:
        """A whole number."""
        return self.data.number(most)

    def values(self, count: int, dtype: str) -> np.ndarray:
        """The bits of ``count`` values: one stream for each byte of an element, the lowest first."""
        width = DTYPES[dtype]
        planes = np.empty((count, width), np.uint8)
        for plane in range(width):
            planes[:, plane] = self.symbols(count, 255)
        return planes.reshape(-1).view("<u%d" % width)

    def codebook(self, count: int, dtype: str) -> np.ndarray:
        """The bits of a codebook's values, sorted by the numbers that they stand for."""
        return self.values(count, dtype)

    def levels(self, rows: int, columns: int, plane: Tuple[int, int]) -> np.ndarray:
        """A matrix of levels, int32 ``[rows * columns]``."""
        flags, size = self.data.byte(), rows * columns
        if flags & DENSE:
            levels = unfolded(self.numbers(size))
            if len(levels) != size:
                raise PackedError("a tensor has another number of levels than elements")
            return levels.reshape(columns, rows).T.reshape(-1) if flags & BY_COLUMNS else levels
        kept_rows, kept_columns = self.kept(rows), self.kept(columns)
        gaps = self.numbers(len(kept_rows) * len(kept_columns))
        levels = unfolded(self.numbers(len(gaps)) + 1)
        places = np.cumsum(gaps + 1) - 1
        if len(levels) != len(gaps) or (len(places) and places[-1] >= len(kept_rows) * len(kept_columns)):
            raise PackedError("a level of a tensor lies outside of it")
        if flags & BY_COLUMNS:
            places = kept_rows[places % len(kept_rows)] * columns + kept_columns[places // len(kept_rows)]
        else:
            places = kept_rows[places // len(kept_columns)] * columns + kept_columns[places % len(kept_columns)]
        result = np.zeros(size, np.int32)
        result[places] = levels
        return result

    def kept(self, count: int) -> np.ndarray:
        """Which of ``count`` rows are not empty, from the lengths of runs: kept, left out, kept, ..."""
        runs = self.numbers(count + 1)
        if not len(runs):
            return np.arange(count)
        if int(runs.sum()) != count:
            raise PackedError("the rows that are left out are not those of the tensor")
        return np.flatnonzero(np.repeat(np.arange(len(runs)) % 2 == 0, runs))

    def numbers(self, most: int) -> np.ndarray:
        """Whole numbers below 2^31, int64: a symbol for the size of each, and the lower bits of those from 16 on."""
        count = self.data.number(most)
        symbols = self.symbols(count, 68).astype(np.int64)
        large = symbols >= SMALL_NUMBERS
        if not large.any():
            return symbols
        lengths = np.where(large, (symbols - SMALL_NUMBERS) // 2 + 3, 0)
        if lengths.max() > 29:
            raise PackedError("a number of the file is too large")
        bits = np.unpackbits(np.frombuffer(self.data.take((int(lengths.sum()) + 7) // 8), np.uint8))
        first = np.cumsum(lengths) - lengths
        lower = np.zeros(count, np.int64)
        for place in range(int(lengths.max())):
            has = lengths > place
            lower[has] = lower[has] * 2 + bits[first[has] + place]
        top = (2 + (symbols - SMALL_NUMBERS) % 2) << lengths
        return np.where(large, top + lower, symbols)

    def symbols(self, count: int, most: int) -> np.ndarray:
        """``count`` symbols, each at most ``most``."""
        if count == 0:
            return np.zeros(0, np.uint8)
        how = self.data.byte()
        if how == CONSTANT:
            return np.full(count, self.data.byte(), np.uint8)
        if how == STORED:
            return np.frombuffer(self.data.take(count), np.uint8)
        if how != CODED:
            raise PackedError("symbols are written in a way that is not known")
        return self.coded(count, most)

    def coded(self, count: int, most: int) -> np.ndarray:
        """Symbols of the range coder: a table, the lanes' states, and the words that they share."""
        table = self.table(most)
        lanes = self.data.number(LANES_MOST)
        if lanes < 1:
            raise PackedError("a stream has no lane")
        words = self.data.number(len(self.data.data) // 2)
        states = np.frombuffer(self.data.take(4 * lanes), "<u4").astype(np.int64)
        return self.decoded(table, states, np.frombuffer(self.data.take(2 * words), "<u2"), count)

    def table(self, most: int) -> np.ndarray:
        """Share of each symbol in 4096ths, int64."""
        shares = np.array([self.data.number(ONE) for _ in range(self.data.number(most) + 1)], np.int64)
        if int(shares.sum()) != ONE:
            raise PackedError("the shares of a table's symbols do not add up")
        return shares

    def decoded(self, table: np.ndarray, states: np.ndarray, words: np.ndarray, count: int) -> np.ndarray:
        """Decode ``count`` symbols; symbol ``i`` lies in lane ``i % lanes``, and all lanes step at once."""
        lanes = len(states)
        first = np.cumsum(table) - table
        symbol_at = np.repeat(np.arange(len(table)), table)
        words = np.concatenate([words, np.zeros(lanes, "<u2")]).astype(np.int64)
        result = np.empty((-(-count // lanes), lanes), np.uint8)
        at, end = 0, len(words) - lanes
        for step in range(len(result)):
            here = states & (ONE - 1)
            symbols = symbol_at[here]
            result[step] = symbols
            states = table[symbols] * (states >> ONE_BITS) + here - first[symbols]
            if (step + 1) * lanes > count:
                break
            low = np.flatnonzero(states < LEAST)
            states[low] = (states[low] << 16) | words[at : at + len(low)]
            at += len(low)
            if at > end:
                raise PackedError("a stream of the file was cut off")
        return result.reshape(-1)[:count]


def number_bytes(value: int) -> bytes:
    """A whole number, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def unfolded(folded: np.ndarray) -> np.ndarray:
    """Levels from 0, -1, 1, -2, 2, ... written as 0, 1, 2, 3, 4, ..."""
    return np.where(folded & 1, -((folded + 1) >> 1), folded >> 1).astype(np.int32)
