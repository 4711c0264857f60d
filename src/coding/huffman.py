"""The profile ``huffman``: Deep Compression's own coding, so that its tables can be reproduced.

Zeros before each weight are written in 4, 5 or 8 bits; a longer run puts a filler, a weight that is zero, in between.
Runs and weights are then Huffman coded, each with a code of its own for the tensor.

Paper: Han et al. 2016, arXiv:1510.00149, sections 2 and 4. Deviation: the cheapest of the three
widths is taken for each tensor.
"""

from __future__ import annotations

import heapq

import numpy as np

from src.coding.compiled import entry
from src.coding.streams import StreamsWriter, folded
from src.device.packed_streams import BY_COLUMNS, PackedError, Streams, number_bytes, unfolded

WIDTHS = (4, 5, 8)  # bits of a run's length
LONGEST = 32  # bits of a code


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's Huffman code; 0 for a symbol that does not occur.

    Args:
        counts: int64 ``[symbols]``; at least two are not zero.
    """
    heap: list[tuple[int, int, tuple[int, ...]]] = [
        (int(count), symbol, (symbol,)) for symbol, count in enumerate(counts) if count
    ]
    lengths = np.zeros(len(counts), np.int64)
    heapq.heapify(heap)
    while len(heap) > 1:
        few, symbol, one = heapq.heappop(heap)
        more, _, other = heapq.heappop(heap)
        lengths[list(one + other)] += 1
        heapq.heappush(heap, (few + more, symbol, one + other))
    return lengths


def codes(lengths: np.ndarray) -> np.ndarray:
    """The canonical codes of these lengths: shorter ones first, those of one length in the order of their symbols."""
    result = np.zeros(len(lengths), np.int64)
    code, before = 0, 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda each: (lengths[each], each)):
        code <<= int(lengths[symbol]) - before
        before = int(lengths[symbol])
        result[symbol] = code
        code += 1
    return result


@entry
def decode_bits(bits: np.ndarray, left: np.ndarray, right: np.ndarray, result: np.ndarray) -> bool:
    """Walk down the tree of codes for each symbol; False if the bits end before.

    Args:
        bits: uint8, 0 or 1.
        left, right: int64: the node after a 0 and after a 1; a symbol as ``-1 - symbol``.
        result: uint8: the symbols.
    """
    at = 0
    for i in range(len(result)):
        node = 0
        while node >= 0:
            if at == len(bits):
                return False
            node = right[node] if bits[at] else left[node]
            at += 1
        result[i] = -1 - node
    return True


def tree(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tree of the canonical codes, as ``decode_bits`` takes it; raise PackedError if it is not whole."""
    used = lengths[lengths > 0].astype(object)
    if len(used) < 2 or sum(1 << (LONGEST - int(length)) for length in used) != 1 << LONGEST:
        raise PackedError("the lengths of a Huffman code are no code's")
    sides = np.zeros((2, len(used) - 1), np.int64)
    nodes = 1
    for symbol, code in enumerate(codes(lengths)):
        node = 0
        for place in range(int(lengths[symbol]) - 1, -1, -1):
            side = (int(code) >> place) & 1
            if place == 0:
                sides[side, node] = -1 - symbol
            else:
                if sides[side, node] == 0:
                    sides[side, node] = nodes
                    nodes += 1
                node = int(sides[side, node])
    return sides[0], sides[1]


class HuffmanWriter(StreamsWriter):
    """Writes the content of tensors as Deep Compression does."""

    def _matrix(self, levels: np.ndarray, flags: int) -> bytes:
        flat = levels.reshape(-1)
        places = np.flatnonzero(flat)
        parts = [_runs(np.diff(places, prepend=-1) - 1, flat[places], width) for width in WIDTHS]
        written = []
        for (runs, weights), width in zip(parts, WIDTHS, strict=True):
            part = HuffmanWriter(self.lanes)
            part.out += bytes([flags, width])
            part.numbers(np.array([len(runs)]))
            part.symbols(runs.astype(np.uint8))
            part.numbers(folded(weights))
            written.append(bytes(part.out))
        return min(written, key=len)

    def coded(self, symbols: np.ndarray, counts: np.ndarray) -> bytes:
        """Symbols by a Huffman code: its lengths, the number of bytes, the bits."""
        lengths = code_lengths(counts)
        code, length = codes(lengths)[symbols], lengths[symbols]
        first = np.cumsum(length) - length
        bits = np.zeros(int(length.sum()), np.uint8)
        for place in range(int(length.max())):
            has = length > place
            bits[first[has] + place] = (code[has] >> (length[has] - 1 - place)) & 1
        body = np.packbits(bits).tobytes()
        return number_bytes(len(lengths) - 1) + lengths.astype(np.uint8).tobytes() + number_bytes(len(body)) + body


def _runs(gaps: np.ndarray, weights: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of zeros below ``2^width`` and the weights behind them, with fillers in runs that are longer."""
    most = (1 << width) - 1
    fillers = gaps // (most + 1)
    last = np.cumsum(fillers + 1) - 1
    runs = np.full(int((fillers + 1).sum()), most, np.int64)
    filled = np.zeros(len(runs), np.int64)
    runs[last], filled[last] = gaps - fillers * (most + 1), weights
    return runs, filled


class HuffmanReader(Streams):
    """Reads what ``HuffmanWriter`` writes."""

    def levels(self, rows: int, columns: int, plane: tuple[int, int]) -> np.ndarray:
        """A matrix of levels, int32 ``[rows * columns]``."""
        flags, size = self.data.byte(), rows * columns
        self.data.byte()
        count = self.numbers(1)
        runs = self.symbols(int(count[0]) if len(count) and count[0] <= size else 0, 255).astype(np.int64)
        weights = unfolded(self.numbers(size))
        places = np.cumsum(runs + 1) - 1
        if len(weights) != len(runs) or (len(places) and places[-1] >= size):
            raise PackedError("a weight of a tensor lies outside of it")
        result = np.zeros(size, np.int32)
        result[places] = weights
        return result.reshape(columns, rows).T.reshape(-1) if flags & BY_COLUMNS else result

    def coded(self, count: int, most: int) -> np.ndarray:
        """Symbols of a Huffman code."""
        lengths = np.frombuffer(self.data.take(self.data.number(most) + 1), np.uint8).astype(np.int64)
        left, right = tree(np.where(lengths > LONGEST, 0, lengths))
        bits = np.unpackbits(np.frombuffer(self.data.take(self.data.number()), np.uint8))
        result = np.empty(count, np.uint8)
        if not decode_bits(bits, left, right, result):
            raise PackedError("a stream of the file was cut off")
        return result
