"""Describing a compressed network, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from src.contracts import NNCF_HOOKS, StoredWeight


def describe_layers(model: nn.Module, stored: Mapping[str, StoredWeight]) -> list[dict[str, Any]]:
    """Sparsity, kept channels, distinct values and bits of each weight as a file holds it.

    Args:
        model: The network.
        stored: What a file holds in place of a weight, by parameter name; all other weights are stored as they are.

    Returns:
        A dict for each weight of two dimensions or more: ``name``, ``shape``, ``parameters``, ``sparsity`` in [0, 1],
        ``kept_channels`` (outputs with a non-zero weight), ``distinct_values``, ``bits``.
    """
    described = []
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or NNCF_HOOKS in name:
            continue
        if name in stored:
            values, bits = _above_zero_point(stored[name]), stored[name].bits
        else:
            values, bits = weight.detach(), 32
        described.append(
            {
                "name": name,
                "shape": list(values.shape),
                "parameters": values.numel(),
                "sparsity": round(1 - int(values.count_nonzero()) / values.numel(), 6),
                "kept_channels": int(values.flatten(1).any(1).sum()),
                "distinct_values": int(values.unique().numel()),
                "bits": bits,
            }
        )
    return described


def _above_zero_point(stored: StoredWeight) -> Tensor:
    """Integers less their zero points: their zeros and distinct values, unlike floats, do not depend on scales."""
    each = (-1, *[1] * (stored.integers.dim() - 1)) if stored.zero_point.dim() else ()
    return stored.integers - stored.zero_point.view(each)
