"""Describing a compressed network, layer by layer."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from src.contracts import StoredWeight
from src.metrics.layers import describe_layers


@pytest.fixture
def net() -> nn.Module:
    """A convolution with four outputs, one of them zero, and a dense layer with three distinct values."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model[0].weight.data = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 3.0], [-0.0, 4.0]]).view(4, 2, 1, 1)
    model[3].weight.data = torch.tensor([[0.5, 0.5, -0.5, 0.0], [0.5, 0.5, 0.5, 0.5]])
    return model


def test_sparsity_channels_and_values_are_counted_by_hand(net: nn.Module) -> None:
    assert describe_layers(net, {}) == [
        {
            "name": "0.weight",
            "shape": [4, 2, 1, 1],
            "parameters": 8,
            "sparsity": 0.5,
            "kept_channels": 3,
            "distinct_values": 5,
            "bits": 32,
        },
        {
            "name": "3.weight",
            "shape": [2, 4],
            "parameters": 8,
            "sparsity": 0.125,
            "kept_channels": 2,
            "distinct_values": 3,
            "bits": 32,
        },
    ]


def test_biases_and_normalizations_are_left_out(net: nn.Module) -> None:
    assert [layer["name"] for layer in describe_layers(net, {})] == ["0.weight", "3.weight"]


def test_bits_are_those_of_the_stored_weight(net: nn.Module) -> None:
    integers = torch.tensor([[5, 0, -5, 0], [7, 0, 5, 5]])
    stored = StoredWeight(integers, 8, torch.tensor([0.1, 0.1]), torch.tensor([0, 0]))
    described = describe_layers(net, {"3.weight": stored})
    assert [layer["bits"] for layer in described] == [32, 8]
    assert (described[1]["sparsity"], described[1]["distinct_values"]) == (0.375, 4)


def test_a_description_can_be_written_as_json(net: nn.Module) -> None:
    described = describe_layers(net, {})
    assert json.loads(json.dumps(described)) == described


def test_the_network_is_left_as_it_was(net: nn.Module) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    describe_layers(net, {})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
