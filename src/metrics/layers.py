"""What a compressed network looks like, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from src.contracts import StoredWeight


def describe_layers(model: nn.Module, stored: Mapping[str, StoredWeight]) -> list[dict[str, Any]]:
    """Sparsity, kept channels, distinct values and bits of each weight tensor, as a file holds it.

    Args:
        model: Its weights are what is stored, unless ``stored`` says otherwise.
        stored: By parameter name, what a file holds in place of a weight.

    Returns:
        A dict a weight of two dimensions or more: ``name``, ``shape``, ``parameters``, ``sparsity`` in [0, 1],
        ``kept_channels`` (outputs with a non-zero weight), ``distinct_values``, ``bits``.
    """
    described = []
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or "__nncf_hooks" in name:
            continue
        if name in stored:
            values, bits = stored[name].integers - _along(stored[name].zero_point, weight.dim()), stored[name].bits
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


def _along(per_output: Tensor, dimensions: int) -> Tensor:
    return per_output.view(-1, *[1] * (dimensions - 1)) if per_output.dim() else per_output
