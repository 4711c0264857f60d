"""Multiply-accumulates against torch's own counter of operations, and by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from src.deploy import counting


def counted(operator: Callable[..., Tensor], *operands: Tensor) -> int:
    """Torch's number of multiply-accumulates of an operator."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        operator(*operands)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_is_counted_as_torch_counts_it(groups: int) -> None:
    images, kernel = torch.zeros(3, 4, 9, 7), torch.zeros(8, 4 // groups, 3, 2)
    output = functional.conv2d(images, kernel, stride=2, groups=groups)
    expected = counted(lambda x, k: functional.conv2d(x, k, stride=2, groups=groups), images, kernel)
    assert counting.convolution(output.shape, kernel.shape) == expected


def test_a_transposed_convolution_is_counted_as_torch_counts_it() -> None:
    images, kernel = torch.zeros(2, 4, 5, 6), torch.zeros(4, 3, 2, 3)
    expected = counted(functional.conv_transpose2d, images, kernel)
    assert counting.transposed_convolution(images.shape, kernel.shape) == expected


def test_products_of_matrices_and_of_stacks_are_counted_as_torch_counts_them() -> None:
    left, right = torch.zeros(5, 2, 3), torch.zeros(5, 3, 4)
    assert counting.product((2, 4), 3) == counted(torch.mm, left[0], right[0])
    assert counting.product((5, 2, 4), 3) == counted(torch.bmm, left, right)


def test_attention_is_two_products() -> None:
    query, key, value = torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 9, 8), torch.zeros(2, 3, 9, 5)
    expected = counted(functional.scaled_dot_product_attention, query, key, value)
    assert counting.attention(query.shape, key.shape, value.shape) == expected


def test_a_recurrent_layer_multiplies_each_step_with_each_weight() -> None:
    """A GRU of 3 inputs and 4 states: three gates of 4, each from 3 inputs and 4 states."""
    assert counting.recurrence(10, [(12, 3), (12, 4)]) == 10 * 3 * 4 * (3 + 4)


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bij, bjk -> bik", [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        ("ncw,cwk->nk", [(1, 3, 16), (3, 16, 3)], 3 * 16 * 3),
        ("ij->ji", [(3, 4)], 0),  # nothing is multiplied
        ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)], None),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], None),
    ],
)
def test_an_einsum_of_two_operands_is_counted_and_another_is_unknown(
    equation: str, shapes: list[tuple[int, ...]], macs: int | None
) -> None:
    assert counting.einsum(equation, shapes) == macs


@pytest.mark.parametrize(
    ("weight", "output", "spread"),
    [
        ((8,), (3, 5), True),  # a vector
        ((1, 8, 1, 1), (1, 8, 7, 7), True),
        ((49, 8), (1, 49, 8), True),
        ((3, 8), (1, 3), False),  # a matrix product
        ((2, 49, 8), (49, 8), False),  # more dimensions than the output
    ],
)
def test_a_weight_is_spread_if_it_is_used_element_by_element(
    weight: tuple[int, ...], output: tuple[int, ...], spread: bool
) -> None:
    assert counting.is_spread(weight, output) is spread
