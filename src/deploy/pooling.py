"""Adaptive average pooling to any size, in operators that every file format has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

POOLS = (functional.adaptive_avg_pool2d, torch._C._nn.adaptive_avg_pool2d)


class FixedWindows(TorchFunctionMode):
    """Within the block, ``adaptive_avg_pool2d`` becomes means of windows if they have different sizes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in POOLS:
            images, size = _given(*args, **(kwargs or {}))
            if any(side % wanted for side, wanted in zip(images.shape[-2:], size, strict=True)):
                return mean_of_windows(mean_of_windows(images, -2, size[0]), -1, size[1])
        return func(*args, **(kwargs or {}))


def mean_of_windows(images: Tensor, dim: int, count: int) -> Tensor:
    """The means of ``count`` windows along ``dim``: window i goes from floor(i n / count) to ceil((i + 1) n / count).

    >>> mean_of_windows(torch.tensor([1.0, 2.0, 3.0]), 0, 2)
    tensor([1.5000, 2.5000])
    """
    side = int(images.shape[dim])
    if count == 1:
        return images.mean(dim, keepdim=True)
    windows = [(at * side // count, -(-(at + 1) * side // count)) for at in range(count)]
    return torch.cat([images.narrow(dim, low, high - low).mean(dim, keepdim=True) for low, high in windows], dim)


def _given(images: Tensor, output_size: Any) -> tuple[Tensor, tuple[int, int]]:
    """The images, and the size of the output; None in the call's size is the input's side."""
    sizes = (output_size, output_size) if isinstance(output_size, int) else output_size
    pairs = zip(sizes, images.shape[-2:], strict=True)
    high, wide = (int(side) if wanted is None else int(wanted) for wanted, side in pairs)
    return images, (high, wide)
