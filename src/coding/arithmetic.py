"""A binary arithmetic coder: each bit costs ``-log2`` of the probability that it was given.

The coder keeps an interval of 48-bit numbers, and writes the leading bytes as soon as both ends agree on them (the
carry-less range coder of Mahoney's lpaq, with a wider interval). The decoder runs the same steps; a file that is read
more than a few bytes past its end was cut off.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from src.coding.compiled import inlined

TOP = (1 << 48) - 1
BITS = 16  # of a probability
LOW, HIGH, VALUE, AT, END, DECODES, OVERRUN = range(7)  # places in the coder's state
LONGEST_OVERRUN = 8  # bytes that a decoder may read past the end of an intact stream


class Coder(NamedTuple):
    """An encoder or decoder.

    Attributes:
        state: int64 ``[7]``: interval, the number read, position, length, direction, bytes read past the end.
        data: uint8: what is read, or room for what is written.
    """

    state: np.ndarray
    data: np.ndarray


def encoder(room: int) -> Coder:
    """An encoder that may write ``room`` bytes."""
    state = np.zeros(7, np.int64)
    state[HIGH], state[END] = TOP, room
    return Coder(state, np.zeros(room, np.uint8))


def decoder(data: bytes) -> Coder:
    """A decoder of what ``finish`` returned."""
    state = np.zeros(7, np.int64)
    padded = np.frombuffer(data[:6].ljust(6, b"\0"), np.uint8)
    state[VALUE] = int.from_bytes(padded.tobytes(), "big")
    state[HIGH], state[AT], state[END], state[DECODES] = TOP, 6, len(data), 1
    return Coder(state, np.frombuffer(data, np.uint8).copy())


def finish(coder: Coder) -> bytes:
    """End an encoder's stream with as few bytes as possible; the decoder reads zeros after them."""
    low, high, at = (int(coder.state[place]) for place in (LOW, HIGH, AT))
    written = coder.data[:at].tobytes()
    for count in range(7):
        unit = 1 << (48 - 8 * count)
        value = -(-low // unit) * unit
        if value <= high:
            return (written + value.to_bytes(6, "big")[:count]).rstrip(b"\0")
    raise AssertionError("an interval of 48 bits holds a number of six bytes")


@inlined
def code_bit(coder: Coder, bit: int, probability: int) -> int:
    """Write ``bit``, or read and return it.

    Args:
        coder: The coder; a decoder ignores ``bit``.
        bit: 0 or 1.
        probability: That the bit is 1, in units of 2^-16; 1 to 65535.
    """
    state = coder.state
    low, high = state[LOW], state[HIGH]
    middle = low + ((high - low) >> BITS) * probability
    if state[DECODES]:
        bit = 1 if state[VALUE] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> 40 == 0:
        if state[DECODES]:
            byte = np.int64(0)
            if state[AT] < state[END]:
                byte = np.int64(coder.data[state[AT]])
            else:
                state[OVERRUN] += 1
            state[VALUE] = ((state[VALUE] << 8) & TOP) | byte
            state[AT] += 1
        elif state[AT] < state[END]:
            coder.data[state[AT]] = high >> 40
            state[AT] += 1
        else:
            state[OVERRUN] += 1
        low = (low << 8) & TOP
        high = ((high << 8) & TOP) | 255
    state[LOW], state[HIGH] = low, high
    return bit
