"""Bits under a budget: exactly the best that keep it, or a refusal that says why."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from src.contracts import Context, DataSplits
from src.primitives.allocations import HessianTrace, MeasuredSensitivity, UnderBudget, knapsack, packed_bytes
from src.primitives.quantizers import Affine, Symmetric
from tests.methods.examples import context

GRID = Symmetric(per_channel=False, candidates=1)


@pytest.mark.parametrize("seed", range(6))
def test_the_knapsack_is_solved_as_by_trying_everything(seed: int) -> None:
    random = np.random.default_rng(seed)
    costs, sizes = random.random((5, 4)), random.integers(1, 50, (5, 4)).astype(float)
    budget = float(sizes.min(1).sum() + 30)
    every = [
        (sum(costs[row, at] for row, at in enumerate(chosen)), chosen)
        for chosen in itertools.product(range(4), repeat=5)
        if sum(sizes[row, at] for row, at in enumerate(chosen)) <= budget
    ]
    assert knapsack(costs, sizes, budget) == list(min(every)[1])


def test_of_equal_costs_the_smaller_is_chosen() -> None:
    assert knapsack(np.zeros((2, 3)), np.array([[1.0, 2, 3], [4, 5, 6]]), 100) == [0, 0]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3 * 16 * 16, 20, bias=False)
        self.last = nn.Linear(20, 10, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(images.flatten(1))))


@pytest.fixture
def judged(splits: DataSplits) -> Context:
    return context(splits)


def budget(size_bytes: float | None, ratio: float | None = None) -> UnderBudget:
    return UnderBudget(size_bytes=size_bytes, compression_ratio=ratio, choices=[2, 4, 8], cost=HessianTrace(draws=30))


def test_the_budget_is_kept_and_used(judged: Context) -> None:
    net, names = Net(), ["first.weight", "last.weight"]
    counts = {"first.weight": 768 * 20, "last.weight": 200}
    for size in (4_000, 8_000, 20_000):
        bits = budget(size)(net, names, GRID, judged)
        assert sum(counts[name] * bits[name] / 8 + 5 for name in names) <= size
    assert bits == {"first.weight": 8, "last.weight": 8}
    assert budget(None, 8.0)(net, names, GRID, judged)["first.weight"] <= 4


def test_a_budget_that_cannot_be_kept_is_refused_with_the_least_size_and_the_largest_layer(judged: Context) -> None:
    with pytest.raises(ValueError, match=r"the least is 3,900 with 2 bits everywhere, of which first.weight .* 3,845"):
        budget(1_000)(Net(), ["first.weight", "last.weight"], GRID, judged)


@pytest.mark.parametrize("fit", [Symmetric, Affine])
def test_scales_and_zero_points_count_as_many_as_there_are(fit: Any) -> None:
    weight = torch.randn(20, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    # 240 weights of 2, 5 and 9 bits: 60, 150 and 270 bytes.
    one, each = fit(per_channel=False, candidates=1), fit(per_channel=True, candidates=1)
    assert packed_bytes(weight, [2, 5, 9], one) == [60 + 4 + 1, 150 + 4 + 1, 270 + 4 + 2]
    assert packed_bytes(weight, [2, 5, 9], each) == [60 + 20 * 5, 150 + 20 * 5, 270 + 20 * 6]
    for bits, size in zip([2, 5, 9], packed_bytes(weight, [2, 5, 9], each), strict=True):
        made = each(weight, bits)
        assert size == 240 * bits / 8 + 4 * made.scale.numel() + (1 if bits <= 8 else 2) * made.zero_point.numel()


def test_a_layer_of_shared_values_has_one_scale() -> None:
    weight = torch.tensor([-1.0, 2.0]).repeat(20, 6)
    assert packed_bytes(weight, [2], Symmetric(per_channel=True, candidates=1)) == [60 + 5]


def test_measured_sensitivity_decides_if_it_is_given(tmp_path: Path, judged: Context) -> None:
    layers = {
        "first.weight": {"bits": {"2": 0.9, "4": 0.9, "8": 0.9}},
        "last.weight": {"bits": {"2": 0.1, "4": 0.5, "8": 0.9}},
    }
    file = tmp_path / "sensitivity.json"
    file.write_text(json.dumps({"accuracy": 0.9, "layers": layers}))
    chosen = UnderBudget(
        size_bytes=5_000,
        compression_ratio=None,
        choices=[2, 4, 8],
        cost=MeasuredSensitivity(file=str(file)),
    )(Net(), ["first.weight", "last.weight"], GRID, judged)
    assert chosen == {"first.weight": 2, "last.weight": 8}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size_bytes": None}, "size_bytes or compression_ratio"),
        ({"size_bytes": -1}, "size_bytes must be more than 0"),
        ({"choices": []}, "choices is empty"),
        ({"size_bytes": float("nan")}, "size_bytes must be more than 0"),
        ({"choices": [2, 17]}, "choices must be a whole number from 1 to 16"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, says: str) -> None:
    given = {"size_bytes": 10, "compression_ratio": None, "choices": [2], "cost": HessianTrace(draws=1), **settings}
    with pytest.raises(ValueError, match=says):
        UnderBudget(**given)
