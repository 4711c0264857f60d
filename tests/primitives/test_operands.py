"""The weights that operators take are found by identity, whatever they are called and however they are reached."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from src.primitives.operands import effective_weights, operator_weights
from tests.primitives.foreign import IMAGE, Lists, Recurrent, Standardized, Timmish, Transformer


def test_layers_in_a_list_and_parameters_of_functions_are_found() -> None:
    assert operator_weights(Lists(), IMAGE) == ["kernel", *(f"streams.{at}.weight" for at in range(3)), "fc.weight"]


def test_recurrent_layers_and_attention_are_found_and_activations_are_not() -> None:
    assert operator_weights(Recurrent(), IMAGE) == [
        *("one.weight", "two.weight", "gru.weight_ih_l0", "gru.weight_hh_l0", "fc.weight")
    ]
    assert operator_weights(Transformer(), IMAGE) == [
        f"{layer}.weight" for layer in ("patches", "qkv", "proj", "up", "down", "fc")
    ]

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, values: Tensor) -> Tensor:
            return self.attention(values, values, values)[0]

    assert operator_weights(Attending(), torch.randn(1, 4, 8)) == [
        *("attention.in_proj_weight", "attention.out_proj.weight")
    ]


def test_what_a_layer_computes_from_its_parameter_is_told_from_the_parameter() -> None:
    torch.manual_seed(0)
    model = Timmish(Standardized)
    with torch.no_grad():
        model.middle.weight[:, ::2] = 0
        model.hidden.weight[:, ::2] = 0
    taken = effective_weights(model, IMAGE)
    assert torch.equal(taken["stem.weight"][0], model.stem.weight)
    assert bool((taken["middle.weight"][0] != 0).all())  # standardized: no zero is left
    assert torch.equal(taken["hidden.weight"][0] == 0, model.hidden.weight == 0)


def test_a_parametrized_weight_is_known_by_its_parameters() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    layer = copy.deepcopy(model)[0]
    (taken,) = effective_weights(model, torch.ones(1, 4))["0.parametrizations.weight.original1"]
    assert torch.equal(taken, layer.weight)


def test_a_layer_that_is_called_twice_is_one_name_with_two_operands() -> None:
    layer = nn.Linear(4, 4)
    assert {
        name: len(each) for name, each in effective_weights(nn.Sequential(layer, layer), torch.ones(1, 4)).items()
    } == {"0.weight": 2}


def test_the_network_is_left_as_it_was() -> None:
    model = Timmish().train().requires_grad_(False)
    effective_weights(model, IMAGE)
    assert model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
