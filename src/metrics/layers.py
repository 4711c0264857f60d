"""What a compressed network looks like, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def describe_layers(model: nn.Module, bits: Mapping[str, int]) -> list[dict[str, Any]]:
    """Sparsity, kept channels, distinct values and bits of each weight tensor.

    Args:
        model: Its weights as they are stored.
        bits: Of each weight by parameter name, where fewer than 32.

    Returns:
        A dict a weight of two dimensions or more: ``name``, ``shape``, ``parameters``, ``sparsity`` in [0, 1],
        ``kept_channels`` (outputs with a non-zero weight), ``distinct_values``, ``bits``.
    """
    described = []
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or "__nncf_hooks" in name:
            continue
        values = weight.detach()
        described.append(
            {
                "name": name,
                "shape": list(values.shape),
                "parameters": values.numel(),
                "sparsity": round(1 - int(values.count_nonzero()) / values.numel(), 6),
                "kept_channels": int(values.flatten(1).any(1).sum()),
                "distinct_values": int(values.unique().numel()),
                "bits": bits.get(name, 32),
            }
        )
    return described
