"""Uniform quantization of n bits: grids of evenly spaced values, and rounding to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from src.contracts import StoredWeight

LEAST_BITS, MOST_BITS = 1, 16

# From the largest and the smallest value of each row to scale, zero point, smallest and largest integer.
RangeFit = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, int, int]]


@dataclass(frozen=True)
class Grid:
    """Evenly spaced values: ``(integer - zero_point) * scale`` for integers in ``low … high``, every ``step``-th.

    Attributes:
        bits: Number of bits of an integer, 1 to 16.
        scale: float32, positive, ``[]`` or ``[out]``.
        zero_point: int32, of the same shape.
        low, high: The smallest and largest integer.
        step: 1; 2 for the two values -1 and 1 of one symmetric bit.
    """

    bits: int
    scale: Tensor
    zero_point: Tensor
    low: int
    high: int
    step: int = 1

    def integers(self, values: Tensor) -> Tensor:
        """The nearest integers, as float32, of the shape of ``values`` (``[out, …]``)."""
        scale, zero_point = _along(self.scale, values), _along(self.zero_point, values)
        steps = (values / scale + zero_point - self.low) / self.step
        return (torch.round(steps) * self.step + self.low).clamp(self.low, self.high)

    def values(self, integers: Tensor) -> Tensor:
        """The values of ``integers`` (``[out, …]``), float32, as ``StoredWeight.values`` gives them.

        Exporters trace this for activations, so it holds no operator but these.
        """
        return (integers - _along(self.zero_point, integers)) * _along(self.scale, integers)

    def quantize(self, values: Tensor) -> Tensor:
        """Round to the nearest values of the grid.

        >>> grid = Grid(bits=3, scale=torch.tensor(0.5), zero_point=torch.tensor(0), low=-3, high=3)
        >>> grid.quantize(torch.tensor([-9.0, 0.2, 0.3, 1.0]))
        tensor([-1.5000,  0.0000,  0.5000,  1.0000])
        """
        return self.values(self.integers(values))

    @property
    def size_bytes(self) -> int:
        """Bytes of the scales, 4 each, and of the zero points, as many each as an integer needs."""
        return self.scale.numel() * (4 + -(-self.bits // 8))

    def stored(self, weight: Tensor) -> StoredWeight:
        """A weight as a file holds it."""
        return StoredWeight(self.integers(weight.detach()).to(torch.int32), self.bits, self.scale, self.zero_point)


class GridFit(Protocol):
    """Chooses a grid for values; the axis of uniform quantization."""

    def __call__(self, values: Tensor, bits: int, *, per_tensor: bool = False) -> Grid:
        """Fit a grid.

        Args:
            values: ``[out, …]``, finite.
            bits: Number of bits of an integer, 1 to 16.
            per_tensor: Use one scale for the whole tensor, even if the granularity is per channel.
        """
        ...

    def has_zero(self, bits: int) -> bool:
        """Whether every grid of ``bits`` bits contains zero."""
        ...


@dataclass(frozen=True, kw_only=True)
class _RangeSearch:
    """Tries several ranges, and takes the one of least squared error: few bits gain if the largest values are cut.

    Attributes:
        per_channel: Use a scale for each output channel, or else one for the tensor.
        candidates: Number of ranges that are tried, evenly spaced from the full range down to 0.2 of it, at least 1;
            1 tries the full range alone.
    """

    per_channel: bool
    candidates: int

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates must be at least 1, and is {self.candidates}")

    @property
    def shares(self) -> list[float]:
        """The candidates, as shares of the full range."""
        return [1 - 0.8 * candidate / self.candidates for candidate in range(self.candidates)]


@dataclass(frozen=True, kw_only=True)
class Symmetric(_RangeSearch):
    """As many steps below zero as above, and zero: ``2^bits - 1`` values; with one bit the two values -s and s.

    Attributes:
        per_channel: Use a scale for each output channel, or else one for the tensor.
        candidates: Number of ranges that are tried, evenly spaced from the largest absolute value down to 0.2 of it,
            at least 1; the one of least squared error is taken.

    Paper: Nagel et al. 2021, arXiv:2106.08295, sections 2.2 and 3.1; one bit: Rastegari et al. 2016,
    arXiv:1603.05279, equation 6.
    """

    def __call__(self, values: Tensor, bits: int, *, per_tensor: bool = False) -> Grid:
        """Fit a grid to ``values [out, …]``.

        >>> grid = Symmetric(per_channel=False, candidates=1)(torch.tensor([[-3.0, 0.4, 1.6, 3.0]]), 3)
        >>> grid.integers(torch.tensor([[-3.0, 0.4, 1.6, 9.0]]))  # of -3 … 3
        tensor([[-3.,  0.,  2.,  3.]])
        """
        check_bits(bits)
        rows = _rows(values, self.per_channel and not per_tensor)
        high = max(1, 2 ** (bits - 1) - 1)
        if bits == 1:
            scale = rows.abs().mean(1)
            return _grid(1, scale, torch.zeros_like(scale), -1, 1, 2, squeeze=per_tensor or not self.per_channel)
        most = rows.abs().amax(1)
        best = _least_error(rows, bits, [(most * share, most * -share) for share in self.shares], _symmetric)
        return _grid(bits, *best, -high, high, 1, squeeze=per_tensor or not self.per_channel)

    def has_zero(self, bits: int) -> bool:
        """False for one bit, True for more."""
        return bits > 1


@dataclass(frozen=True, kw_only=True)
class Affine(_RangeSearch):
    """From the smallest value to the largest; zero lies within the range, and its integer is the zero point.

    Attributes:
        per_channel: Use a scale for each output channel, or else one for the tensor.
        candidates: Number of ranges that are tried, evenly spaced from the full range down to 0.2 of it, at least 1;
            the one of least squared error is taken.

    Paper: Jacob et al. 2018, arXiv:1712.05877, section 2.1.
    """

    def __call__(self, values: Tensor, bits: int, *, per_tensor: bool = False) -> Grid:
        """Fit a grid to ``values [out, …]``.

        >>> grid = Affine(per_channel=False, candidates=1)(torch.tensor([[-1.0, 0.0, 2.0]]), 2)
        >>> grid.integers(torch.tensor([[-1.0, 0.0, 1.4, 2.0]])), int(grid.zero_point)  # of 0 … 3
        (tensor([[0., 1., 2., 3.]]), 1)
        """
        check_bits(bits)
        rows = _rows(values, self.per_channel and not per_tensor)
        high, low = rows.amax(1).clamp(min=0), rows.amin(1).clamp(max=0)
        best = _least_error(rows, bits, [(high * share, low * share) for share in self.shares], _affine)
        return _grid(bits, *best, 0, 2**bits - 1, 1, squeeze=per_tensor or not self.per_channel)

    def has_zero(self, bits: int) -> bool:
        """True: every affine grid contains zero."""
        return True


def check_bits(bits: int, setting: str = "bits") -> None:
    """Raise ValueError, with the name of the ``setting``, unless ``bits`` is a whole number from 1 to 16.

    >>> check_bits(17, "activation_bits")
    Traceback (most recent call last):
    ValueError: activation_bits must be a whole number from 1 to 16, and is 17
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not LEAST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"{setting} must be a whole number from {LEAST_BITS} to {MOST_BITS}, and is {bits}")


def straight_through(values: Tensor, grid: Grid) -> Tensor:
    """Quantize, and let the gradient pass unchanged for values within the grid's range.

    Paper: Bengio et al. 2013, arXiv:1308.3432, section 4; clipped as by Hubara et al. 2016, arXiv:1602.02830.

    >>> values = torch.tensor([-9.0, 0.4, 2.6, 9.0], requires_grad=True)
    >>> straight_through(values, Grid(3, torch.tensor(1.0), torch.tensor(0), -3, 3)).sum().backward()
    >>> values.grad
    tensor([0., 1., 1., 0.])
    """
    lowest = grid.values(torch.full_like(values, grid.low))
    highest = grid.values(torch.full_like(values, grid.high))
    inside = values.clamp(lowest, highest) if grid.bits > 1 else values
    return grid.quantize(values).detach() + (inside - inside.detach())  # in this order nothing is rounded away


def _symmetric(high: Tensor, low: Tensor, bits: int) -> tuple[Tensor, Tensor, int, int]:
    most = max(1, 2 ** (bits - 1) - 1)
    return high / most, torch.zeros_like(high), -most, most


def _affine(high: Tensor, low: Tensor, bits: int) -> tuple[Tensor, Tensor, int, int]:
    scale = (high - low) / (2**bits - 1)
    zero_point = torch.round(-low / scale.clamp(min=torch.finfo(scale.dtype).tiny)).clamp(0, 2**bits - 1)
    return scale, zero_point, 0, 2**bits - 1


def _least_error(rows: Tensor, bits: int, ranges: list[tuple[Tensor, Tensor]], fit: RangeFit) -> tuple[Tensor, Tensor]:
    """The scale and zero point of each row (``[rows]``) that have the least squared error over the ranges."""
    least = torch.full_like(rows[:, 0], torch.inf)
    scale, zero_point = torch.ones_like(least), torch.zeros_like(least)
    for high, low in ranges:
        s, z, lowest, highest = fit(high, low, bits)
        s = torch.where(s > 0, s, 1.0)  # a row of zeros
        integers = torch.round(rows / s[:, None] + z[:, None]).clamp(lowest, highest)
        error = (rows - (integers - z[:, None]) * s[:, None]).square().sum(1)
        better = error < least
        least, scale = torch.where(better, error, least), torch.where(better, s, scale)
        zero_point = torch.where(better, z, zero_point)
    return scale, zero_point


def _grid(bits: int, scale: Tensor, zero_point: Tensor, low: int, high: int, step: int, *, squeeze: bool) -> Grid:
    scale = torch.where(scale > 0, scale, 1.0).float()
    zero_point = zero_point.to(torch.int32)
    return Grid(bits, scale[0] if squeeze else scale, zero_point[0] if squeeze else zero_point, low, high, step)


def _rows(values: Tensor, per_channel: bool) -> Tensor:
    """The values as float32: a row for each output channel, or one row."""
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        raise ValueError("values are missing, NaN or infinite: no grid fits them")
    return values.detach().float().flatten(1) if per_channel else values.detach().float().reshape(1, -1)


def _along(per_output: Tensor, values: Tensor) -> Tensor:
    """``per_output`` (``[]`` or ``[out]``) in a shape that broadcasts over ``values`` (``[out, …]``)."""
    return per_output.view(-1, *[1] * (values.dim() - 1)) if per_output.dim() else per_output
