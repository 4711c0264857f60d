"""The coder's bits of a tensor, as a function."""

from __future__ import annotations

import numpy as np

from src.coding.container import pack, tensor_of
from src.coding.rates import level_bits, tensor_bits
from tests.coding.examples import pruned


def levels() -> np.ndarray:
    return np.rint(4 * pruned(60, 200, 0.1)).astype(np.int32)


def test_the_bits_of_levels_are_those_of_the_file() -> None:
    content = pack({"w": tensor_of(levels().astype(np.float32) * np.float32(0.25))}, "small")
    rest = len(pack({"w": tensor_of(np.zeros((60, 200), np.float32))}, "small"))
    assert abs(tensor_bits(levels()) / 8 - (len(content) - rest)) < 12  # the step, and parts of a byte
    assert 0 <= tensor_bits(levels()) - level_bits(levels()).sum() < 200  # flags of 260 rows and columns


def test_a_rare_level_takes_more_bits_than_a_zero_and_empty_columns_take_none() -> None:
    bits = level_bits(levels())
    assert bits[levels() != 0].mean() > 4 * bits[levels() == 0].mean()
    assert not bits[:, ~levels().any(0)].any()
