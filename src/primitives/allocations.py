"""How many bits each layer gets, under a budget of bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from src.contracts import Context
from src.primitives.keeping import shared_values
from src.primitives.quantizers import GridFit, check_bits
from src.primitives.scores import hessian_diagonal
from src.primitives.sensitivity import read_sensitivity


class Allocation(ABC):
    """Chooses how many bits each weight gets."""

    @property
    def possible_bits(self) -> Sequence[int]:
        """The numbers of bits that a weight can get, so that a method can say what it undoes; empty if not known."""
        return ()

    @abstractmethod
    def __call__(self, model: nn.Module, names: Sequence[str], grid: GridFit, context: Context) -> dict[str, int]:
        """Choose the bits of the weights called ``names``.

        Args:
            model: A plain network; it is left as it was.
            names: Names of weights.
            grid: Fits the grid of a weight.
            context: Calibration batches with their labels, the loss, a seed.

        Returns:
            Bits by weight name.

        Raises:
            ValueError: The budget cannot be met.
        """


class BitsCost(Protocol):
    """Says what a weight costs at a number of bits; the axis of ``UnderBudget``."""

    def __call__(
        self, model: nn.Module, names: Sequence[str], bits: Sequence[int], grid: GridFit, context: Context
    ) -> np.ndarray:
        """The cost of each weight at each number of bits.

        Args:
            model: A plain network; it is left as it was.
            names: Names of weights.
            bits: Numbers of bits.
            grid: Fits the grid of a weight.
            context: Calibration batches with their labels, the loss, a seed.

        Returns:
            Costs, ``[names, bits]``, in any unit; costs of different weights are added.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class HessianTrace:
    """The cost of a layer at n bits is its mean curvature times its squared quantization error.

    Attributes:
        draws: Number of random sign vectors for each calibration batch (see ``hessian_diagonal``), at least 1.

    Paper: Dong et al. 2020 (HAWQ-V2), arXiv:1911.03852, equation 9.
    """

    draws: int

    def __post_init__(self) -> None:
        if not self.draws >= 1:
            raise ValueError(f"draws must be at least 1, and is {self.draws}")

    def __call__(
        self, model: nn.Module, names: Sequence[str], bits: Sequence[int], grid: GridFit, context: Context
    ) -> np.ndarray:
        weights = [model.get_parameter(name) for name in names]
        traces = np.array([float(d.mean()) for d in hessian_diagonal(model, weights, context, self.draws)])
        curvature = np.maximum(traces, 1e-3 * max(traces.max(), 1e-12))  # a negative curvature has a cost, too
        errors = [
            [float((grid(w.detach(), n).quantize(w.detach()) - w.detach()).square().sum()) for n in bits]
            for w in weights
        ]
        return curvature[:, None] * np.array(errors)


class MeasuredSensitivity:
    """The cost of a layer at n bits is the validation accuracy that is lost if it alone has n bits.

    Args:
        file: The ``sensitivity.json`` that ``python -m src.sensitivity`` wrote for the same network.
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
                raise ValueError(
                    f"the sensitivity analysis has no measurements of {name} at {missing} bits: "
                    f"run python -m src.sensitivity for this network with these bits"
                )
        return np.array([[max(base - layers[name]["bits"][str(n)], 0.0) for n in bits] for name in names])


@dataclass(frozen=True, kw_only=True)
class UnderBudget(Allocation):
    """The bits of least cost whose weights, with every other parameter in 32 bits, keep a budget of bytes.

    The bytes of a layer are those of its weights packed to n bits, of its scales (4 each) and of its zero points (1
    each, 2 if n is more than 8). Its grid has one scale for each output channel, or one for the tensor. The files that
    are written today are larger: ONNX and OpenVINO store weights of up to 8 bits as integers of 8 bits, and of more
    bits as floats of 32.

    Attributes:
        size_bytes: Limit of the bytes of all parameters together, packed, more than 0; None for no such limit.
        compression_ratio: How many times smaller than in 32 bits the parameters must be, more than 0; None for no such
            limit.
        choices: Numbers of bits that a layer may have, each 1 … 16.
        cost: Says what a layer costs at each number of bits.

    Paper: Dong et al. 2020 (HAWQ-V2), arXiv:1911.03852, section 3.2; solved exactly, as a knapsack.
    """

    size_bytes: float | None
    compression_ratio: float | None
    choices: Sequence[int]
    cost: BitsCost

    def __post_init__(self) -> None:
        limits = {"size_bytes": self.size_bytes, "compression_ratio": self.compression_ratio}
        if all(value is None for value in limits.values()):
            raise ValueError("size_bytes or compression_ratio must be given")
        for name, value in limits.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, and is {value}")
        if not self.choices:
            raise ValueError("choices is empty: at least one number of bits is needed")
        for bits in self.choices:
            check_bits(bits, "choices")

    @property
    def possible_bits(self) -> Sequence[int]:
        return self.choices

    def __call__(self, model: nn.Module, names: Sequence[str], grid: GridFit, context: Context) -> dict[str, int]:
        choices = sorted(set(self.choices))
        weights = {name: model.get_parameter(name).detach() for name in names}
        counts = {name: weight.numel() for name, weight in weights.items()}
        others = sum(p.numel() for name, p in model.named_parameters() if name not in counts) * 4
        budget = self.size_bytes or float("inf")
        if self.compression_ratio is not None:
            budget = min(budget, (4 * sum(counts.values()) + others) / self.compression_ratio)
        sizes = np.array([packed_bytes(weights[name], choices, grid) for name in names])
        least = int(sizes[:, 0].sum()) + others
        if least > budget:
            largest = int(sizes[:, 0].argmax())
            raise ValueError(
                f"the budget of {budget:,.0f} bytes cannot be kept: the least is {least:,} with {choices[0]} bits "
                f"everywhere, of which {names[largest]} alone takes {sizes[largest, 0]:,}"
            )
        chosen = knapsack(self.cost(model, names, choices, grid, context), sizes, budget - others)
        return {name: choices[column] for name, column in zip(names, chosen, strict=True)}


def packed_bytes(weight: Tensor, choices: Sequence[int], grid: GridFit) -> list[int]:
    """Count the bytes of a weight packed to each number of bits, with its scales and zero points.

    Args:
        weight: ``[out, …]``.
        choices: Numbers of bits.
        grid: Fits the grid of a weight.

    >>> import torch
    >>> from src.primitives.quantizers import Symmetric
    >>> packed_bytes(torch.arange(8.0).view(2, 4), [2, 4], Symmetric(per_channel=True, candidates=1))
    [12, 14]
    """
    one_each = weight.flatten(1)[:, :1]  # the number of scales depends on the outputs alone
    per_tensor = shared_values(weight) is not None
    return [-(-weight.numel() * n // 8) + grid(one_each, n, per_tensor=per_tensor).size_bytes for n in choices]


def knapsack(costs: np.ndarray, sizes: np.ndarray, budget: float) -> list[int]:
    """Choose one column for each row: the least sum of costs among all whose sizes sum to at most ``budget``.

    The solution is exact. Row by row, the (size, cost) pairs that no other pair beats in both are kept; of equal costs
    the smaller size wins.

    Args:
        costs, sizes: ``[rows, columns]``.
        budget: In the unit of ``sizes``.

    Returns:
        The column of each row.

    Raises:
        ValueError: Even the smallest sizes of all rows sum to more than ``budget``.

    >>> costs = np.array([[9.0, 1.0], [4.0, 0.0]])  # two layers, each with few bits or with many
    >>> sizes = np.array([[10.0, 20.0], [10.0, 20.0]])
    >>> knapsack(costs, sizes, budget=30)  # costs 1 + 4; the other way costs 9 + 0
    [1, 0]
    """
    least_left = np.append(np.cumsum(sizes.min(1)[::-1])[::-1], 0.0)  # the least size of this row and all after it
    size, cost = np.zeros(1), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for row in range(len(costs)):
        total_sizes = (size[:, None] + sizes[row]).ravel()
        total_costs = (cost[:, None] + costs[row]).ravel()
        fitting = np.flatnonzero(total_sizes + least_left[row + 1] <= budget)
        if not len(fitting):
            raise ValueError(f"the sizes cannot be brought under {budget:,.0f}: the least is {least_left[0]:,.0f}")
        ordered = fitting[np.lexsort((total_costs[fitting], total_sizes[fitting]))]
        lowest = np.minimum.accumulate(total_costs[ordered])
        front = ordered[np.append(True, total_costs[ordered][1:] < lowest[:-1])]
        steps.append((front // sizes.shape[1], front % sizes.shape[1]))
        size, cost = total_sizes[front], total_costs[front]
    at, chosen = int(cost.argmin()), []
    for before, column in reversed(steps):
        chosen.append(int(column[at]))
        at = int(before[at])
    return chosen[::-1]
