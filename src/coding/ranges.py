"""A range coder of symbols with fixed shares, in lanes that a processor works on at once (rANS).

Paper: Duda 2013, arXiv:1311.2540, section 3; lanes: Giesen 2014, arXiv:1402.3392. States of 32 bits, words of 16,
shares of 4096. ``src.device.packed`` reads the same with numpy.
"""

from __future__ import annotations

import numpy as np

from src.coding.compiled import entry
from src.device.packed_streams import LEAST, ONE, ONE_BITS


def shares(counts: np.ndarray) -> np.ndarray:
    """Round counts to shares of 4096, at least 1 for a symbol that occurs.

    Args:
        counts: int64 ``[symbols]``; two or more occur.
    """
    table = np.maximum(counts * ONE // counts.sum(), counts > 0).astype(np.int64)
    while table.sum() != ONE:
        # the change that costs least: d(-count * log(share)) = count / share
        step = 1 if table.sum() < ONE else -1
        able = (counts > 0) & (table + step > 0)
        cost = np.where(able, -step * counts / np.maximum(table, 1), np.inf)
        place = int(np.argmin(cost))
        table[place] += step if abs(table.sum() - ONE) < 64 else step * min(32, max(1, int(table[place]) // 4))
    return table


@entry
def encode_symbols(
    symbols: np.ndarray, table: np.ndarray, first: np.ndarray, states: np.ndarray, words: np.ndarray
) -> int:
    """Code symbols from the last to the first; return the place in ``words`` where the stream starts.

    Args:
        symbols: uint8; symbol ``i`` goes to lane ``i % len(states)``.
        table, first: int64: share of each symbol, and the sum of the shares before it.
        states: int64 ``[lanes]``, all ``LEAST``; left as the decoder starts.
        words: uint16, as many as symbols and more; filled from its end.
    """
    at, lanes = len(words), len(states)
    for i in range(len(symbols) - 1, -1, -1):
        lane, symbol = i % lanes, symbols[i]
        share, state = table[symbol], states[lane]
        if state >= share << (32 - ONE_BITS):
            at -= 1
            words[at] = state & 0xFFFF
            state >>= 16
        states[lane] = ((state // share) << ONE_BITS) + state % share + first[symbol]
    return at


@entry
def decode_symbols(
    result: np.ndarray, table: np.ndarray, symbol_at: np.ndarray, states: np.ndarray, words: np.ndarray
) -> bool:
    """Fill ``result`` with symbols; False if the words end before.

    Args:
        result: uint8 ``[count]``.
        table: int64: share of each symbol.
        symbol_at: uint8 ``[4096]``: the symbol that has each 4096th.
        states: int64 ``[lanes]``.
        words: uint16.
    """
    first = np.cumsum(table) - table
    at, lanes = 0, len(states)
    for i in range(len(result)):
        lane = i % lanes
        state = states[lane]
        here = state & (ONE - 1)
        symbol = symbol_at[here]
        result[i] = symbol
        state = table[symbol] * (state >> ONE_BITS) + here - first[symbol]
        if state < LEAST:
            if at == len(words):
                return i + lanes >= len(result)
            state = (state << 16) | np.int64(words[at])
            at += 1
        states[lane] = state
    return True
