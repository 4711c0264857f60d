"""Truncated SVD: the best approximation of its rank, and only where it saves weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from src.contracts import DataSplits, NoEffectError
from src.methods.low_rank import LowRank, factorise
from src.primitives.ranks import Energy, Fixed, Share
from tests.methods.test_prune import context


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


def test_ranks_by_hand() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])
    assert [Energy(energy=e)(values) for e in (0.5, 0.64, 0.65, 0.93, 1.0)] == [1, 1, 2, 3, 3]
    assert [Fixed(rank=r)(values) for r in (2, 9)] == [2, 4]
    assert [Share(share=s)(values) for s in (0.1, 0.5, 1.0)] == [1, 2, 4]


def test_layers_that_would_not_get_smaller_stay(splits: DataSplits) -> None:
    net = low_rank(Fixed(rank=8)).compress(Net().eval(), context(splits))
    assert [name for name, m in net.named_modules() if isinstance(m, nn.Sequential)] == [
        "conv",
        "fc",
    ]  # 400 weights of out would be 400
    with pytest.raises(NoEffectError, match="no layer would get smaller"):
        low_rank(Fixed(rank=1000)).compress(Net().eval(), context(splits))


def test_the_recorded_structure_gives_the_same_outputs_to_the_bit(splits: DataSplits) -> None:
    method = low_rank({"conv*": Fixed(rank=2), "*": Fixed(rank=4)})
    net = method.compress(Net().eval(), context(splits))
    again = method.rebuild(Net(), copy.deepcopy(method.structure(net)))
    again.load_state_dict(net.state_dict())
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(again.eval()(images), net.eval()(images))
    assert method.structure(net) == {"ranks": {"conv": 2, "fc": 4, "out": 4}}


def test_a_forward_that_reaches_for_the_weight_is_refused(splits: DataSplits) -> None:
    class Reaching(Net):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + self.fc.weight.sum()

    with pytest.raises(ValueError, match="does not run"):
        low_rank(Fixed(rank=4)).compress(Reaching().eval(), context(splits))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Energy(energy=0.0), "energy must be in"),
        (lambda: Fixed(rank=0), "rank must be"),
        (lambda: Share(share=1.5), "share must be in"),
    ],
)
def test_ranks_that_make_no_sense_are_refused(build: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()
