"""Uniform quantization of n bits: grids of evenly spaced values, and rounding to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from src.contracts import StoredWeight

LEAST_BITS, MOST_BITS = 1, 16


@dataclass(frozen=True)
class Grid:
    """Evenly spaced values: ``(integer - zero_point) * scale`` for integers in ``low … high``, every ``step``-th.

    Attributes:
        bits: 1 to 16.
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
        """The nearest integers, as float32 of the shape of ``values`` (``[out, …]``)."""
        scale, zero_point = _along(self.scale, values), _along(self.zero_point, values)
        steps = (values / scale + zero_point - self.low) / self.step
        return (torch.round(steps) * self.step + self.low).clamp(self.low, self.high)

    def values(self, integers: Tensor) -> Tensor:
        """What integers stand for."""
        return (integers - _along(self.zero_point, integers)) * _along(self.scale, integers)

    def quantize(self, values: Tensor) -> Tensor:
        """The nearest values of the grid."""
        return self.values(self.integers(values))

    @property
    def size_bytes(self) -> int:
        """Of the scales, 4 bytes each, and zero points, as many bytes each as an integer needs."""
        return self.scale.numel() * (4 + -(-self.bits // 8))

    def stored(self, weight: Tensor) -> StoredWeight:
        """A weight as a file holds it."""
        return StoredWeight(self.integers(weight.detach()).to(torch.int32), self.bits, self.scale, self.zero_point)


class GridFit(Protocol):
    """Chooses a grid for values."""

    def __call__(self, values: Tensor, bits: int, *, per_tensor: bool = False) -> Grid:
        """A grid for ``values [out, …]``; ``per_tensor`` asks for one scale, whatever the granularity is."""
        ...

    def has_zero(self, bits: int) -> bool:
        """Whether every grid of so many bits has a zero."""
        ...


class Symmetric:
    """As many steps below zero as above, zero among them: ``2^bits - 1`` values; with one bit the two values -s and s.

    The scale is the one of least squared error among shrunken ranges: few bits gain when the largest weights are cut.

    Args:
        per_channel: A scale for each output channel, or one for the tensor.
        candidates: Ranges tried, evenly from the largest absolute value downwards; 1 tries that alone.

    Paper: Nagel et al. 2021, arXiv:2106.08295, sections 2.2 and 3.1; one bit: Rastegari et al. 2016,
    arXiv:1603.05279, equation 6.
    """

    def __init__(self, *, per_channel: bool, candidates: int) -> None:
        self.per_channel, self.candidates = per_channel, _checked(candidates)

    def __call__(self, values: Tensor, bits: int, *, per_tensor: bool = False) -> Grid:
        check_bits(bits)
        rows = _rows(values, self.per_channel and not per_tensor)
        high = max(1, 2 ** (bits - 1) - 1)
        if bits == 1:
            scale = rows.abs().mean(1)
            return _grid(1, scale, torch.zeros_like(scale), -1, 1, 2, squeeze=per_tensor or not self.per_channel)
        most = rows.abs().amax(1)
        best = _best(rows, bits, [(most * share, most * -share) for share in self._shares()], _symmetric)
        return _grid(bits, *best, -high, high, 1, squeeze=per_tensor or not self.per_channel)

    def has_zero(self, bits: int) -> bool:
        return bits > 1

    def _shares(self) -> list[float]:
        return [1 - 0.8 * at / self.candidates for at in range(self.candidates)]


class Affine:
    """From the smallest value to the largest, both including zero, whose integer is the zero point.

    Args:
        per_channel, candidates: As of ``Symmetric``.

    Paper: Jacob et al. 2018, arXiv:1712.05877, section 2.1.
    """

    def __init__(self, *, per_channel: bool, candidates: int) -> None:
        self.per_channel, self.candidates = per_channel, _checked(candidates)

    def __call__(self, values: Tensor, bits: int, *, per_tensor: bool = False) -> Grid:
        check_bits(bits)
        rows = _rows(values, self.per_channel and not per_tensor)
        high, low = rows.amax(1).clamp(min=0), rows.amin(1).clamp(max=0)
        shares = [1 - 0.8 * at / self.candidates for at in range(self.candidates)]
        best = _best(rows, bits, [(high * share, low * share) for share in shares], _affine)
        return _grid(bits, *best, 0, 2**bits - 1, 1, squeeze=per_tensor or not self.per_channel)

    def has_zero(self, bits: int) -> bool:
        return True


def check_bits(bits: int, setting: str = "bits") -> None:
    """Raise ValueError, by the name of the ``setting``, unless ``bits`` is a whole number from 1 to 16."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not LEAST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"{setting} must be a whole number from {LEAST_BITS} to {MOST_BITS}, and is {bits}")


def straight_through(values: Tensor, grid: Grid) -> Tensor:
    """The quantized values, with the gradient of the values themselves where they lie within the grid's range.

    Paper: Bengio et al. 2013, arXiv:1308.3432, section 4; clipped as by Hubara et al. 2016, arXiv:1602.02830.
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


def _best(rows: Tensor, bits: int, ranges: list[tuple[Tensor, Tensor]], fit) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """Scale and zero point of each row (``[rows]``) with the least squared error over the ranges."""
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
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        raise ValueError("values are missing, NaN or infinite: no grid fits them")
    return values.detach().float().flatten(1) if per_channel else values.detach().float().reshape(1, -1)


def _along(per_output: Tensor, like: Tensor) -> Tensor:
    return per_output.view(-1, *[1] * (like.dim() - 1)) if per_output.dim() else per_output


def _checked(candidates: int) -> int:
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, and is {candidates}")
    return candidates
