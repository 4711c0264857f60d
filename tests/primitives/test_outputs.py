"""Whether networks compute the same, and which changes are to blame."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from src.primitives.outputs import failing, precise_outputs, same_outputs


def test_outputs_are_computed_in_float64_and_the_network_stays_float32() -> None:
    torch.manual_seed(0)
    model, images = nn.Linear(5, 3), torch.randn(4, 5)
    found = precise_outputs(model, images)
    assert found.dtype == torch.float64
    assert torch.equal(found, images.double() @ model.weight.double().T + model.bias.double())
    assert model.weight.dtype == torch.float32


def test_a_network_that_insists_on_float32_computes_in_it() -> None:
    class Insists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(images.float())

    model = Insists()
    assert torch.equal(precise_outputs(model, torch.ones(2, 5)), model(torch.ones(2, 5)))


def test_rounding_is_no_difference_and_more_is() -> None:
    wanted = torch.tensor([100.0, 1.0])
    assert same_outputs(wanted + torch.tensor([0.0, 5e-3]), wanted)  # float32: 1e-4 of the largest output
    assert not same_outputs(wanted + torch.tensor([0.0, 5e-2]), wanted)
    assert not same_outputs(wanted.double() + 5e-3, wanted.double())
    assert not same_outputs(wanted[:1], wanted)


def test_values_that_are_no_numbers_are_the_same_if_they_stand_in_the_same_places() -> None:
    nan, infinite = float("nan"), float("inf")
    wanted = torch.tensor([1.0, nan, infinite]).double()
    assert same_outputs(wanted, wanted)
    assert not same_outputs(torch.tensor([1.5, nan, infinite]), wanted)
    assert not same_outputs(torch.tensor([1.0, 1.0, infinite]), wanted)
    assert not same_outputs(torch.tensor([1.0, nan, -infinite]), wanted)
    assert same_outputs(torch.tensor([nan]), torch.tensor([nan]))


@given(st.sets(st.integers(0, 19)))
def test_exactly_the_changes_that_fail_are_found(bad: set[int]) -> None:
    assert failing(range(20), lambda some: not bad & set(some)) == sorted(bad)


def test_changes_that_hold_together_are_tried_once() -> None:
    tried: list[int] = []

    def holds(some: object) -> bool:
        tried.append(len(some))  # type: ignore[arg-type]
        return True

    assert failing(range(20), holds) == []
    assert failing([], holds) == []
    assert tried == [20]
