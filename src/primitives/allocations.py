"""Bits for each layer, chosen under a budget of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from src.contracts import Context
from src.primitives.keeping import shared_values
from src.primitives.quantizers import GridFit, check_bits
from src.primitives.scores import hessian_diagonal
from src.primitives.sensitivity import read_sensitivity


class Allocation(Protocol):
    """Chooses how many bits each weight gets."""

    def __call__(self, model: nn.Module, names: Sequence[str], grid: GridFit, context: Context) -> dict[str, int]:
        """Bits by weight name; raises ValueError where the budget cannot be met."""
        ...


class HessianTrace:
    """Cost of a layer at n bits: its mean curvature times its squared quantization error.

    Args:
        draws: Of random signs for each calibration batch (see ``hessian_diagonal``).

    Paper: Dong et al. 2020 (HAWQ-V2), arXiv:1911.03852, equation 9.
    """

    def __init__(self, *, draws: int) -> None:
        if not draws >= 1:
            raise ValueError(f"draws must be at least 1, and is {draws}")
        self.draws = draws

    def __call__(
        self, model: nn.Module, names: Sequence[str], bits: Sequence[int], grid: GridFit, context: Context
    ) -> np.ndarray:
        weights = [model.get_parameter(name) for name in names]
        traces = np.array([float(d.mean()) for d in hessian_diagonal(model, weights, context, self.draws)])
        curvature = np.maximum(traces, 1e-3 * max(traces.max(), 1e-12))  # where it curves down, its errors still count
        errors = [
            [float((grid(w.detach(), n).quantize(w.detach()) - w.detach()).square().sum()) for n in bits]
            for w in weights
        ]
        return curvature[:, None] * np.array(errors)


class MeasuredSensitivity:
    """Cost of a layer at n bits: the validation accuracy that it alone loses, from ``python -m src.sensitivity``.

    Args:
        file: The ``sensitivity.json`` of the same network.
    """

    def __init__(self, *, file: str) -> None:
        self.record = read_sensitivity(file)

    def __call__(
        self, model: nn.Module, names: Sequence[str], bits: Sequence[int], grid: GridFit, context: Context
    ) -> np.ndarray:
        layers, base = self.record["layers"], self.record["accuracy"]
        for name in names:
            missing = [n for n in bits if str(n) not in layers.get(name, {}).get("bits", {})]
            if missing:
                raise ValueError(f"the sensitivity file knows nothing of {name} at {missing} bits: make it anew")
        return np.array([[max(base - layers[name]["bits"][str(n)], 0.0) for n in bits] for name in names])


class UnderBudget:
    """The bits of least cost whose weights, with every other parameter in 32 bits, keep a budget of bytes.

    A layer's bytes are those of its weights packed to n bits, of its scales (4 each) and of its zero points (1 each, 2
    with more than 8 bits), as many as its grid has: one an output channel or one a tensor. The files that are written
    today take more: ONNX and OpenVINO store weights of up to 8 bits as integers of 8, and of more as floats of 32.

    Args:
        size_bytes: Of all parameters together, packed, more than 0; None for no such limit.
        compression_ratio: How many times smaller than in 32 bits they must be; None for no such limit.
        choices: Bits that a layer may have, each 1 … 16.
        cost: What a layer at n bits costs, ``[layers, choices]``.

    Paper: Dong et al. 2020 (HAWQ-V2), arXiv:1911.03852, section 3.2; solved exactly, as a knapsack.
    """

    def __init__(
        self,
        *,
        size_bytes: float | None,
        compression_ratio: float | None,
        choices: Sequence[int],
        cost: HessianTrace | MeasuredSensitivity,
    ) -> None:
        limits = {"size_bytes": size_bytes, "compression_ratio": compression_ratio}
        if all(value is None for value in limits.values()):
            raise ValueError("size_bytes or compression_ratio must be given")
        for name, value in limits.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, and is {value}")
        if not choices:
            raise ValueError("choices is empty: at least one number of bits is needed")
        for bits in choices:
            check_bits(bits, "choices")
        self.size_bytes, self.compression_ratio = size_bytes, compression_ratio
        self.choices, self.cost = sorted(set(choices)), cost

    def __call__(self, model: nn.Module, names: Sequence[str], grid: GridFit, context: Context) -> dict[str, int]:
        weights = {name: model.get_parameter(name).detach() for name in names}
        counts = {name: weight.numel() for name, weight in weights.items()}
        others = sum(p.numel() for name, p in model.named_parameters() if name not in counts) * 4
        budget = self.size_bytes or float("inf")
        if self.compression_ratio is not None:
            budget = min(budget, (4 * sum(counts.values()) + others) / self.compression_ratio)
        sizes = np.array([packed_bytes(weights[name], self.choices, grid) for name in names])
        least = int(sizes[:, 0].sum()) + others
        if least > budget:
            at = int(sizes[:, 0].argmax())
            raise ValueError(
                f"the budget of {budget:,.0f} bytes cannot be kept: the least is {least:,} with {self.choices[0]} bits "
                f"everywhere, of which {names[at]} alone takes {sizes[at, 0]:,}"
            )
        costs = self.cost(model, names, self.choices, grid, context)
        chosen = knapsack(costs, sizes, budget - others)
        return {name: self.choices[at] for name, at in zip(names, chosen, strict=True)}


def packed_bytes(weight: Tensor, choices: Sequence[int], grid: GridFit) -> list[int]:
    """The bytes of a weight ``[out, …]`` packed to each number of bits, and of its scales and zero points then."""
    one_each = weight.flatten(1)[:, :1]  # how many scales there are is a matter of the outputs alone
    per_tensor = shared_values(weight) is not None
    return [-(-weight.numel() * n // 8) + grid(one_each, n, per_tensor=per_tensor).size_bytes for n in choices]


def knapsack(costs: np.ndarray, sizes: np.ndarray, budget: float) -> list[int]:
    """Choose one column a row so that the costs' sum is least and the sizes' sum at most ``budget``, exactly.

    Row by row the front of (size, cost) pairs is kept that no other pair beats in both; of equal costs the smaller
    size wins.

    Args:
        costs, sizes: ``[rows, columns]``.
        budget: In the unit of ``sizes``.

    Returns:
        The column of each row.

    Raises:
        ValueError: Even the smallest of each row are too large together.
    """
    ahead = np.append(np.cumsum(sizes.min(1)[::-1])[::-1], 0.0)  # the least that the rows from here on take
    size, cost = np.zeros(1), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for row in range(len(costs)):
        sums = (size[:, None] + sizes[row]).ravel()
        totals = (cost[:, None] + costs[row]).ravel()
        fitting = np.flatnonzero(sums + ahead[row + 1] <= budget)
        if not len(fitting):
            raise ValueError(f"the sizes cannot be brought under {budget:,.0f}: the least is {ahead[0]:,.0f}")
        ordered = fitting[np.lexsort((totals[fitting], sums[fitting]))]
        lowest = np.minimum.accumulate(totals[ordered])
        front = ordered[np.append(True, totals[ordered][1:] < lowest[:-1])]
        steps.append((front // sizes.shape[1], front % sizes.shape[1]))
        size, cost = sums[front], totals[front]
    at, chosen = int(cost.argmin()), []
    for before, column in reversed(steps):
        chosen.append(int(column[at]))
        at = int(before[at])
    return chosen[::-1]
