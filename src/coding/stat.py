"""What each tensor of a packed file takes, beside its zero-order entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.coding.streams import entropy_bits
from src.device.packed import CODEBOOK, RAW, SPARSE, UNIFORM, Packed, Tensor
from src.device.packed_streams import DTYPES

WAYS = {RAW: "values", CODEBOOK: "codebook", UNIFORM: "uniform levels", SPARSE: "sparse values"}


@dataclass(frozen=True)
class Line:
    """A tensor in numbers.

    Attributes:
        name, dtype, shape: As packed.
        sparsity: Share of its elements that are zero, in [0, 1].
        distinct: Number of its distinct values.
        bits_per_weight: Bits of the file for each element.
        size_bytes: Bytes of the file.
        way: How it was written.
        entropy_bytes: Its zero-order entropy (``zero_order_bytes``).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sparsity: float
    distinct: int
    bits_per_weight: float
    size_bytes: float
    way: str
    entropy_bytes: float


def zero_order_bytes(tensor: Tensor) -> tuple[float, int]:
    """Bytes of a tensor's elements coded by their frequencies alone, its distinct values included; their number."""
    if not tensor.bits.size:
        return 0.0, 0
    _, counts = np.unique(tensor.bits, return_counts=True)
    table = len(counts) * 8 * DTYPES[tensor.dtype]
    return min(entropy_bits(counts) + table, 8.0 * tensor.bits.nbytes) / 8, len(counts)


def lines(packed: Packed) -> list[Line]:
    """A line for each tensor."""
    found = []
    for entry, size in zip(packed.entries, packed.sizes, strict=True):
        tensor = packed.tensors[entry.name]
        entropy, distinct = zero_order_bytes(tensor)
        elements = max(1, tensor.bits.size)
        sparsity = 1 - np.count_nonzero(tensor.bits) / elements if tensor.bits.size else 0.0
        found.append(
            Line(
                entry.name,
                entry.dtype,
                entry.shape,
                float(sparsity),
                distinct,
                8 * size / elements,
                size,
                WAYS[entry.way],
                entropy,
            )
        )
    return found


def table(packed: Packed, size_bytes: int) -> str:
    """The lines as text, and below them the whole file of ``size_bytes``."""
    heading = ("tensor", "shape", "zeros", "distinct", "bits/weight", "bytes", "coded as", "of entropy")
    found = lines(packed)
    rows = [heading]
    for line in found:
        shape = "x".join(map(str, line.shape)) or "scalar"
        rows.append(
            (
                line.name,
                f"{shape} {line.dtype}",
                f"{100 * line.sparsity:.1f} %",
                f"{line.distinct:,}",
                f"{line.bits_per_weight:.3f}",
                f"{line.size_bytes:,.0f}",
                line.way,
                f"{line.size_bytes / line.entropy_bytes:.3f}x" if line.entropy_bytes else "-",
            )
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(heading))]
    left = (0, 1, 6)
    text = [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    entropy = sum(line.entropy_bytes for line in found)
    raw = sum(tensor.bits.nbytes for tensor in packed.tensors.values())
    rest = size_bytes - sum(line.size_bytes for line in found)
    total = f"{size_bytes:,} bytes by '{packed.profile}', {rest:,.0f} of them names, shapes, checksums, card and graph"
    ratios = f"{raw / size_bytes:.1f}x smaller than its {raw:,} bytes of tensors"
    against = f"; {size_bytes / entropy:.3f}x their zero-order entropy" if entropy else ""
    return "\n".join([*(line.rstrip() for line in text), f"{total}; {ratios}{against}"])
