"""What a step made is kept by those after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from src.primitives.keeping import Keep, Members, shared_values, sum_levels, summed_by_levels


def net(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data = torch.tensor(weight)
    return layer


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_zeros_and_shared_values_survive_training_to_the_bit(optimizer: type[torch.optim.Optimizer]) -> None:
    model = net([[0.5, -0.25, 0.0, 0.5], [-0.25, 0.5, 0.5, 0.0], [0.0, 0.5, -0.25, -0.25]])
    before = model.weight.detach().clone()
    keep = Keep(model)
    settings = {"momentum": 0.9, "nesterov": True} if optimizer is torch.optim.SGD else {}
    steps = optimizer(model.parameters(), lr=0.1, weight_decay=0.01, **settings)  # type: ignore[call-arg]
    for seed in range(20):
        torch.manual_seed(seed)
        steps.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        keep.after_backward(model)
        steps.step()
    assert torch.equal(model.weight == 0, before == 0)
    assert len(model.weight[before == 0.5].unique()) == len(model.weight[before == -0.25].unique()) == 1
    assert not torch.equal(model.weight, before)


def test_the_gradient_of_members_is_their_mean() -> None:
    model = net([[2.0, 2.0, 0.0, 2.0, -1.0, -1.0]])
    keep = Keep(model)
    model.weight.grad = torch.tensor([[1.0, 2.0, 9.0, 6.0, 1.0, 0.0]])
    keep.after_backward(model)
    assert model.weight.grad.tolist() == [[3.0, 3.0, 0.0, 3.0, 0.5, 0.5]]


def test_weights_that_share_nothing_are_left_alone() -> None:
    model = nn.Linear(30, 20)
    assert shared_values(model.weight) is None
    keep = Keep(model)
    assert keep.zeros == keep.members == {}


def test_a_few_weights_of_their_own_are_no_codebook() -> None:
    assert shared_values(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])) is None
    assert shared_values(torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0])).tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    assert shared_values(torch.zeros(5)) is None


def test_members_are_labelled_and_summed_by_hand() -> None:
    weight, values = torch.tensor([-1.0, 0.0, 3.0, -1.0]), torch.tensor([-1.0, 3.0])
    members = Members(weight, values)
    assert members.labels.tolist() == [1, 0, 2, 1]
    assert members.sums(torch.tensor([1.0, 5.0, 2.0, 4.0])).tolist() == [0.0, 5.0, 2.0]


@pytest.mark.parametrize(("labels", "weights"), [(1, 10_000), (3, 70_000), (400, 5_000), (9, 12)])
def test_sums_side_by_side_are_those_one_after_the_other(labels: int, weights: int) -> None:
    generator = torch.Generator().manual_seed(labels)
    of_weight = torch.randint(0, labels + 1, (2, weights), generator=generator)
    terms = torch.randn(2, weights, dtype=torch.float64, generator=generator)
    levels = sum_levels(of_weight, labels + 1)
    assert all(index.shape[1] == 64 for index in levels)
    expected = torch.zeros(labels + 1, dtype=torch.float64).index_add_(0, of_weight.flatten(), terms.flatten())
    assert torch.allclose(summed_by_levels(terms.flatten(), levels), expected[1:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_weights_rounded_to_half_precision_are_no_codebook(half: torch.dtype) -> None:
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(0)).mul(0.05).to(half).float()
    assert 256 < weight.unique().numel() < weight.numel() / 2
    assert shared_values(weight) is None
    weight.view(-1)[::3] = 0
    assert Keep(net(weight.tolist())).members == {}


def test_few_values_that_half_precision_can_hold_are_a_codebook() -> None:
    values = torch.arange(1, 17) / 16
    weight = values[torch.randint(0, 16, (40, 40), generator=torch.Generator().manual_seed(0))]
    assert shared_values(weight).tolist() == values.tolist()  # type: ignore[union-attr]


def test_many_values_that_half_precision_cannot_hold_are_a_codebook() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).sort().values
    weight = values[torch.arange(10_000) % 1000].view(100, 100)
    assert torch.equal(shared_values(weight), values)  # type: ignore[arg-type]
