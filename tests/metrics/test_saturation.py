"""The bound on sums of two products in 16 bits."""

from __future__ import annotations

import torch

from src.contracts import StoredWeight
from src.metrics.saturation import saturating_layers


def stored(*integers: int) -> StoredWeight:
    return StoredWeight(torch.tensor([integers]), 8, torch.tensor(1.0), torch.tensor(0))


def test_two_large_weights_of_one_sign_can_overflow() -> None:
    assert saturating_layers({"safe": stored(64, 64, -127), "unsafe": stored(64, 65, 3)}) == ["unsafe"]


def test_a_first_layer_that_reads_grey_images_counts_and_a_depthwise_layer_does_not() -> None:
    large = StoredWeight(torch.full((4, 1, 3, 3), 127), 8, torch.tensor(1.0), torch.tensor(0))
    assert saturating_layers({"grey": large, "depthwise": large}) == ["grey"]
