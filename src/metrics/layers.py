"""What a compressed network looks like, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def describe_layers(model: nn.Module, stored: Mapping[str, tuple[Tensor, int]]) -> list[dict[str, Any]]:
    """Sparsity, kept channels, distinct values and bits of each weight tensor, as a file holds it.

    Args:
        model: Its weights are what is stored, unless ``stored`` says otherwise.
        stored: Values and bits by parameter name; the values need not be scaled, zero being zero.

    Returns:
        A dict a weight of two dimensions or more: ``name``, ``shape``, ``parameters``, ``sparsity`` in [0, 1],
        ``kept_channels`` (outputs with a non-zero weight), ``distinct_values``, ``bits``.
    """
    described = []
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or "__nncf_hooks" in name:
            continue
        values, bits = stored.get(name, (weight.detach(), 32))
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
