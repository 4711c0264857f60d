"""Attention as its two products and the softmax between them."""

from __future__ import annotations

from torch import nn


def unfuse_attention(model: nn.Module) -> nn.Module:
    """Let every attention that has the choice (timm's ``fused_attn``) be computed operator by operator, in place.

    The fused operator of torch hides its products, so that nothing can be quantized inside it. What is computed stays
    the same.

    >>> layer = nn.Linear(2, 2)
    >>> layer.fused_attn = True
    >>> unfuse_attention(nn.Sequential(layer))[0].fused_attn
    False
    """
    for module in model.modules():
        if getattr(module, "fused_attn", None) is True:
            module.fused_attn = False  # type: ignore[assignment]
    return model
