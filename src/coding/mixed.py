"""The profile ``small``: everything in one arithmetic-coded stream, predicted by context mixing.

What the mixer has learnt in one tensor helps in the next: its weights stay, its counts start anew.
"""

from __future__ import annotations

import numpy as np

from src.coding import arithmetic, levels, mixing
from src.coding.arithmetic import LONGEST_OVERRUN, OVERRUN, Coder
from src.coding.compiled import entry, inlined
from src.coding.mixing import REGION, Mixer, mix_bit
from src.coding.streams import ordered
from src.device.packed_streams import DTYPES, Bytes, PackedError

VALUES, WHOLE, FLAGS = 34, 37, 38  # first regions of values and of whole numbers
VALUE_SETS, WHOLE_SETS, FLAG_SETS = 420, 440, 450
HIGH_BITS = {"F32": 9, "F16": 6, "BF16": 9, "F64": 12, "C64": 0}  # sign and exponent; 8 for others
MODELED = 3  # bits behind these that are predicted
RATE = 0.01
LARGE = 256  # values of a codebook
ROOM = 4096


@inlined
def one_bit(mixer: Mixer, coder: Coder, slot: int, weights: int, bit: int) -> int:
    """Code a bit in a context of its own, the only one."""
    mixer.slots[0] = slot
    mixer.choice[0] = 1
    mixer.choice[1] = 1
    mixer.choice[2] = weights
    mixer.choice[3] = weights
    return mix_bit(mixer, coder, bit, RATE)


@entry
def code_values(mixer: Mixer, coder: Coder, bits: np.ndarray, width: int, high: int) -> bool:
    """Write or read the bits of values: the high ones in the context of those above, the low ones as they are.

    Args:
        mixer, coder: As for levels.
        bits: int64 ``[count]``.
        width: Bits of a value.
        high: Bits from the top that are predicted by a tree of contexts, at most 12.
    """
    for i in range(len(bits)):
        value, node = np.int64(0), np.int64(1)
        for place in range(width - 1, -1, -1):
            bit = (bits[i] >> place) & 1
            depth = width - 1 - place
            if depth < high:
                bit = one_bit(mixer, coder, VALUES * REGION + node, VALUE_SETS, bit)
                node = 2 * node + bit
            elif depth < high + MODELED:
                slot = (VALUES + 1) * REGION + (depth - high) * 8 + (value & 7)
                bit = one_bit(mixer, coder, slot, VALUE_SETS + 1, bit)
            else:
                bit = arithmetic.code_bit(coder, bit, 32768)
                mixer.totals[0] += 1.0
            value |= bit << place
        bits[i] = value
        if coder.state[OVERRUN] > LONGEST_OVERRUN:
            return False
    return True


@entry
def code_whole(mixer: Mixer, coder: Coder, value: int) -> int:
    """Write or read a whole number below 2^62: its number of bits in one context each, then its bits."""
    length, value = np.int64(0), np.int64(value)  # type: ignore[assignment]
    while length < 62:
        more = np.int64(1) if (value + 1) >> (length + 1) > 0 else np.int64(0)
        if one_bit(mixer, coder, WHOLE * REGION + length, WHOLE_SETS, more) == 0:
            break
        length += 1
    result = np.int64(1)
    for place in range(length - 1, -1, -1):
        bit = arithmetic.code_bit(coder, ((value + 1) >> place) & 1, 32768)
        mixer.totals[0] += 1.0
        result = 2 * result + bit
    return result - 1  # type: ignore[return-value]


@entry
def code_flags(mixer: Mixer, coder: Coder, flags: np.ndarray, width: int) -> bool:
    """Write or read flags, uint8, each in the context of the two before it and the one a line of ``width`` above."""
    for i in range(len(flags)):
        context = flags[i - 1] if i > 0 else 1
        context += 2 * (flags[i - 2] if i > 1 else 1)
        context += 4 * (flags[i - width] if i >= width else 1)
        flags[i] = one_bit(mixer, coder, FLAGS * REGION + np.int64(context), FLAG_SETS, np.int64(flags[i]))
    return bool(coder.state[OVERRUN] <= LONGEST_OVERRUN)


class Mixed:
    """What writer and reader share: one coder and one mixer for all tensors."""

    def __init__(self, coder: Coder) -> None:
        self.coder, self.mixer = coder, mixing.mixer()

    def begin(self) -> None:
        """Start a tensor: the counts of every context start anew."""
        self.mixer.chance[:], self.mixer.seen[:] = 0.5, 0

    def finish(self) -> None:
        """End a tensor."""

    def _values(self, bits: np.ndarray, dtype: str) -> bool:
        width = 8 * DTYPES[dtype]
        return bool(code_values(self.mixer, self.coder, bits, width, HIGH_BITS.get(dtype, 8)))


class MixedWriter(Mixed):
    """Writes the content of tensors; each method has its counterpart in the reader."""

    def __init__(self) -> None:
        super().__init__(arithmetic.encoder(ROOM))

    def bits(self) -> float:
        """Bits that are written, to a fraction of one."""
        return float(self.mixer.totals[mixing.COST])

    def close(self) -> bytes:
        """All bytes."""
        return arithmetic.finish(self.coder)

    def number(self, value: int, most: int) -> None:
        """A whole number."""
        self.reserve(16)
        code_whole(self.mixer, self.coder, value)

    def values(self, bits: np.ndarray, dtype: str) -> None:
        """The bits of values."""
        self.reserve(bits.nbytes * 4)
        self._values(bits.astype(np.int64), dtype)

    def codebook(self, bits: np.ndarray, dtype: str) -> None:
        """The bits of a codebook's values, sorted: those of a large one as the distances between them."""
        if len(bits) <= LARGE or DTYPES[dtype] > 4:
            return self.values(bits, dtype)
        keys = ordered(bits) + (1 << 32)
        for distance in np.diff(keys, prepend=0):
            self.number(int(distance), 1 << 34)
        return None

    def levels(self, matrix: np.ndarray, plane: tuple[int, int]) -> None:
        """A matrix of levels, int32 ``[rows, columns]``."""
        coded, row = levels.matrix(matrix.copy(), *plane), 0
        self.reserve(4 * sum(matrix.shape))
        code_flags(self.mixer, self.coder, coded.rows_used, 1)
        code_flags(self.mixer, self.coder, coded.columns_used, plane[0])
        while row < len(matrix):
            self.reserve(matrix.shape[1] * levels.ROOM_OF_A_LEVEL)
            row = levels.code_rows(self.mixer, self.coder, coded, row)

    def reserve(self, room: int) -> None:
        """Make room for so many bytes more."""
        state, data = self.coder
        room += int(state[arithmetic.AT]) + ROOM
        if room > len(data):
            grown = np.zeros(2 * room, np.uint8)
            grown[: len(data)] = data
            state[arithmetic.END] = len(grown)
            self.coder = Coder(state, grown)


class MixedReader(Mixed):
    """Reads what ``MixedWriter`` writes."""

    def __init__(self, data: Bytes) -> None:
        super().__init__(arithmetic.decoder(data.rest()))

    def position(self) -> float:
        """Bytes that were read, to a fraction of one."""
        return float(self.mixer.totals[mixing.COST]) / 8.0

    def number(self, most: int) -> int:
        """A whole number."""
        value = int(code_whole(self.mixer, self.coder, 0))
        if value > most or not self._intact():
            raise PackedError(f"the file claims {value:,} where at most {most:,} are possible")
        return value

    def values(self, count: int, dtype: str) -> np.ndarray:
        """The bits of ``count`` values."""
        bits = np.zeros(count, np.int64)
        if not self._values(bits, dtype):
            raise PackedError("the file was cut off")
        return bits.astype(f"<u{DTYPES[dtype]}")

    def codebook(self, count: int, dtype: str) -> np.ndarray:
        """The bits of a codebook's values."""
        width = DTYPES[dtype]
        if count <= LARGE or width > 4:
            return self.values(count, dtype)
        keys = np.cumsum([self.number(1 << 34) for _ in range(count)]) - (1 << 32)
        top = 1 << (8 * width - 1)
        return (np.where(keys < 0, top - 1 - keys, keys) & (2 * top - 1)).astype(f"<u{width}")

    def levels(self, rows: int, columns: int, plane: tuple[int, int]) -> np.ndarray:
        """A matrix of levels, int32 ``[rows * columns]``."""
        result = np.zeros((rows, columns), np.int32)
        coded = levels.matrix(result, *plane)
        intact = code_flags(self.mixer, self.coder, coded.rows_used, 1)
        intact = intact and code_flags(self.mixer, self.coder, coded.columns_used, plane[0])
        if not intact or levels.code_rows(self.mixer, self.coder, coded, 0) < 0:
            raise PackedError("the file was cut off")
        return result.reshape(-1)

    def _intact(self) -> bool:
        return bool(self.coder.state[OVERRUN] <= LONGEST_OVERRUN)
