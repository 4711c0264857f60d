"""Whether integer kernels of processors without VNNI can compute an INT8 file exactly."""

from __future__ import annotations

from collections.abc import Mapping

from src.contracts import StoredWeight

MOST_OF_PAIR = 32767 // 255  # of two weights: 255 times their sum must fit 16 bits


def saturating_layers(weights: Mapping[str, StoredWeight]) -> list[str]:
    """Names of the weights for which two products u8 x s8 can exceed 16 bits, in which AVX2 adds them.

    Which weights the kernel pairs depends on the runtime, so the two largest of one sign of an output channel count:
    a bound, which no image need reach.
    """
    found = []
    for at, (name, weight) in enumerate(weights.items()):
        if at and weight.integers.dim() > 2 and weight.integers.shape[1] == 1:
            continue  # depthwise kernels add no pairs in 16 bits; the first layer reads grey images
        rows = (weight.integers - weight.zero_point.view(-1, *[1] * (weight.integers.dim() - 1))).flatten(1)
        few = min(2, rows.shape[1])
        sums = [(sign * rows).clamp(min=0).topk(few, dim=1).values.sum(1).max() for sign in (1, -1)]
        if max(map(int, sums)) > MOST_OF_PAIR:
            found.append(name)
    return found
