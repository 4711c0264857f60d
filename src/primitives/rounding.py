"""Rounding to a grid whose ends are learned, with gradients for values and ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Rounding(torch.autograd.Function):
    """Round to a grid, with the gradients of NNCF's quantizers (nncf/torch/quantization/reference.py), in float32.

    The grid has the integers ``low … high``: ``lowest`` is the value of ``low``, and a step is ``reach / high``. The
    gradient of values within the grid passes unchanged.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, lowest: Tensor, reach: Tensor, low: int, high: int) -> Tensor:
        """Round ``values`` of any shape; ``lowest`` and ``reach`` are ``[1]`` or broadcast along one axis."""
        wide, step = values.float(), reach / high
        zero_point = (low - lowest / step).round()
        if wide.is_cuda:  # torch's operator per channel reads the zero points on the host
            rounded = ((wide / step + zero_point).round().clamp(low, high) - zero_point) * step
        elif step.numel() == 1:
            grid = (step.view(1), zero_point.view(1).int(), torch.ones(1, dtype=torch.long))
            rounded, _ = torch.ops.aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
                wide, *grid, low, high
            )
        else:
            axis = max(range(step.dim()), key=lambda at: step.shape[at])
            rounded = torch.fake_quantize_per_channel_affine(
                wide, step.flatten(), zero_point.flatten().int(), axis, low, high
            )
        ctx.save_for_backward(values, rounded, lowest, reach)
        ctx.limits = low, high
        return rounded.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (values, rounded, lowest, reach), (low, high) = ctx.saved_tensors, ctx.limits
        wide, gradient = values.float(), gradients[0].float()
        highest = lowest + reach * ((high - low) / high)
        above, below = wide > highest, wide < lowest
        passing = gradient.masked_fill(above | below, 0.0)
        on_reach = (passing * (rounded - wide)).sum_to_size(reach.shape) / (highest - lowest)
        on_reach = on_reach + (gradient * above).sum_to_size(reach.shape)
        if low:
            on_reach = on_reach + (low / high) * (gradient * below).sum_to_size(reach.shape)
        on_lowest = (gradient - passing).sum_to_size(lowest.shape) if ctx.needs_input_grad[1] else None
        return passing.to(values.dtype), on_lowest, on_reach, None, None
