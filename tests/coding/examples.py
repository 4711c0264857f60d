"""Tensors of every kind that a network may hold, and some that none should."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from src.coding.container import tensor_of
from src.device.packed import Tensor


def pruned(rows: int, columns: int, share: float, seed: int = 0) -> np.ndarray:
    """A float32 matrix of which a share is not zero, denser in some columns than in others, some columns empty."""
    draws = np.random.default_rng(seed)
    density = share * np.exp(draws.normal(0, 1, columns))
    density[: columns // 8] = 0
    kept = draws.random((rows, columns)) < density
    return np.where(kept, draws.normal(0, 1, (rows, columns)), 0).astype(np.float32)


def shared(weights: np.ndarray, count: int) -> np.ndarray:
    """Weights with ``count`` shared values in place of those that are not zero."""
    values = np.quantile(weights[weights != 0], (np.arange(count) + 0.5) / count).astype(np.float32)
    nearest = np.abs(weights[..., None] - values).argmin(-1)
    return np.where(weights != 0, values[nearest], np.float32(0))


def network() -> dict[str, Tensor]:
    """Tensors as networks have them, and odd ones."""
    draws = np.random.default_rng(1)
    weights = pruned(30, 784, 0.08)
    levels = np.rint(weights * 4).astype(np.int64)
    halves = draws.normal(0, 1, (5, 40)).astype(np.float16)
    arrays: Mapping[str, np.ndarray] = {
        "fc1.weight": shared(weights, 15),
        "fc1.bias": draws.normal(0, 1, 30).astype(np.float32),
        "fc2.weight": levels.astype(np.float32) * np.float32(0.013),
        "fc3.weight": pruned(20, 50, 0.3),
        "conv.weight": shared(pruned(8, 36, 0.5).reshape(8, 4, 3, 3), 7),
        "bn.num_batches_tracked": np.array(7040, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(np.nan, np.float32),
        "odd": np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, 3.4e38], np.float32),
        "minus zero": np.full((4, 5), -0.0, np.float32),
        "all equal": np.full((6, 7), 2.5, np.float32),
        "int8": draws.integers(-128, 128, (8, 4, 3, 3)).astype(np.int8),
        "uint8": draws.integers(0, 3, 50).astype(np.uint8),
        "int32": draws.integers(-(2**31), 2**31, 9).astype(np.int32),
        "uint64": np.array([0, 2**64 - 1], np.uint64),
        "flags": draws.random(40) < 0.2,
        "half": halves,
        "double": draws.normal(0, 1, (3, 3)),
        "complex": draws.normal(0, 1, 6).astype(np.float32).view(np.complex64),
        "not contiguous": np.asfortranarray(pruned(12, 40, 0.2))[::2],
    }
    found = {name: tensor_of(array) for name, array in arrays.items()}
    for dtype in ("BF16", "F8_E5M2", "F8_E4M3"):
        kind = np.uint16 if dtype == "BF16" else np.uint8
        found[dtype] = Tensor(dtype, (4, 10), draws.integers(0, 200, 40).astype(kind))
    return found
