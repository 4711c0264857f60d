"""Truncated SVD: the best approximation of its rank, and only if it saves weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from src.contracts import DataSplits, NoEffectError
from src.methods.low_rank import LowRank, factorise
from src.primitives.ranks import Energy, Fixed
from tests.methods.examples import context
from tests.primitives.foreign import Timmish


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.fc = nn.Linear(16 * 8 * 8, 40)
        self.out = nn.Linear(40, 10, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.depthwise(torch.relu(self.conv(images))))
        return self.out(torch.relu(self.fc(hidden.flatten(1))))


def low_rank(rank: Any, **changed: Any) -> LowRank:
    return LowRank(**{"rank": rank, "ignored": [], "fine_tune": None, **changed})


def test_factors_are_the_best_of_their_rank() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 20).double()
    factors = factorise(layer, Fixed(rank=5))
    assert factors is not None
    product = factors[1].weight.double() @ factors[0].weight.double()  # type: ignore[operator, union-attr]
    values = torch.linalg.svdvals(layer.weight)
    error = (product - layer.weight).square().sum()
    assert float(error) == pytest.approx(float(values[5:].square().sum()), rel=1e-4)  # Eckart and Young 1936


def test_a_convolution_of_full_rank_is_itself() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 64, 3, stride=2, padding=1)
    layer.weight.data = (torch.randn(64, 6) @ torch.randn(6, 72)).view(64, 8, 3, 3)
    factors = factorise(layer, Energy(energy=1 - 1e-9))
    images = torch.randn(2, 8, 9, 9)
    assert factors is not None
    assert factors.rank == 6
    assert torch.allclose(factors(images), layer(images), atol=1e-4)


def test_layers_that_would_not_get_smaller_stay(splits: DataSplits) -> None:
    net = low_rank(Fixed(rank=8)).compress(Net().eval(), context(splits)).model
    assert [name for name, m in net.named_modules() if isinstance(m, nn.Sequential)] == [
        "conv",
        "fc",
    ]  # 400 weights of out would be 400
    with pytest.raises(NoEffectError, match="no layer would get smaller"):
        low_rank(Fixed(rank=1000)).compress(Net().eval(), context(splits))


def test_the_recorded_structure_gives_the_same_outputs_to_the_bit(splits: DataSplits) -> None:
    method = low_rank({"conv*": Fixed(rank=2), "*": Fixed(rank=4)})
    made = method.compress(Net().eval(), context(splits))
    assert made.structure == {"ranks": {"conv": 2, "fc": 4, "out": 4}}
    again = method.rebuild(Net(), copy.deepcopy(made.structure))
    again.load_state_dict(made.model.state_dict())
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(again.eval()(images), made.model.eval()(images))


def test_a_forward_that_uses_the_weight_of_a_factorised_layer_is_refused(splits: DataSplits) -> None:
    class UsesWeight(Net):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + self.fc.weight.sum()

    with pytest.raises(ValueError, match=r"uses the weights of fc in another way .* add fc\.weight to ignored"):
        low_rank(Fixed(rank=4)).compress(UsesWeight().eval(), context(splits))


def test_a_layer_whose_class_is_not_exactly_the_known_one_is_left_alone_and_named(splits: DataSplits) -> None:
    made = low_rank(Fixed(rank=2)).compress(Timmish().eval(), context(splits))
    assert made.structure == {"ranks": {"stem": 2, "fc": 2}}
    assert set(made.left_alone) == {"middle", "hidden"}
    assert made.left_alone["middle"].startswith("SamePadding may compute something else")


def test_a_grouped_convolution_is_named_as_such(splits: DataSplits) -> None:
    made = low_rank(Fixed(rank=2)).compress(Net().eval(), context(splits))
    assert made.left_alone == {"depthwise": "its channels are grouped"}


def test_a_weight_that_a_function_takes_besides_its_layer_is_refused_though_the_network_runs(
    splits: DataSplits,
) -> None:
    """``fc`` is a plain layer with a hook that computes something else of its input and weight."""
    model = Net().eval()
    model.fc.register_forward_hook(lambda layer, inputs, output: output + layer.in_features)
    with pytest.raises(ValueError, match="uses the weights of fc in another way"):
        low_rank(Fixed(rank=4)).compress(model, context(splits))
