"""Removing channels leaves what the network computes with these channels at zero, and shapes can be given again."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

from src.primitives.channels import (
    FROZEN,
    Side,
    Ties,
    give_shapes,
    mute_units,
    remove_units,
    removes_cleanly,
    shapes_of,
)
from src.primitives.costs import Parameters
from src.primitives.tying import tie_channels
from tests.primitives.networks import IMAGE, NETWORKS, Plain, seeded


class Pair(nn.Module):
    """Two dense layers, ``[3, 2]`` and ``[2, 3]``: the three channels between them are a unit each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 3), nn.Linear(3, 2)
        self.one.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        self.one.bias.data = torch.tensor([1.0, 2.0, 3.0])
        self.two.weight.data = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        self.two.bias.data = torch.tensor([1.0, 2.0])

    def forward(self, images: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(images.flatten(1))))


OUTPUTS = Side("one", {"weight": 0, "bias": 0}, ("out_features",), (0, 1, 2), True)
INPUTS = Side("two", {"weight": 1}, ("in_features",), (0, 1, 2), False)
TIES = Ties((OUTPUTS, INPUTS), {"one": (0, 1, 2)})
PIXELS = torch.rand(1, 1, 1, 2, generator=torch.Generator().manual_seed(0))


def test_a_removed_unit_takes_its_row_its_bias_and_the_column_that_reads_it() -> None:
    net = Pair()
    remove_units(net, TIES, {1})
    assert net.one.weight.tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert net.one.bias.tolist() == [1.0, 3.0]
    assert net.two.weight.tolist() == [[1.0, 3.0], [4.0, 6.0]]
    assert net.two.bias.tolist() == [1.0, 2.0]
    assert (net.one.out_features, net.two.in_features, net.two.out_features) == (2, 2, 2)
    assert all(isinstance(tensor, nn.Parameter) and tensor.requires_grad for tensor in net.parameters())


def test_a_muted_unit_is_read_by_nobody_and_the_structure_stays() -> None:
    net = Pair()
    mute_units(net, TIES, {1})
    assert net.one.weight.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert net.two.weight.tolist() == [[1.0, 0.0, 3.0], [4.0, 0.0, 6.0]]


def test_removing_no_unit_changes_nothing() -> None:
    net, before = Pair(), Pair()
    remove_units(net, TIES, set())
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), before.parameters(), strict=True))


def test_a_frozen_channel_is_removed_with_no_unit() -> None:
    sides = (
        Side("one", OUTPUTS.tensors, OUTPUTS.attributes, (0, FROZEN, 1), True),
        Side("two", INPUTS.tensors, INPUTS.attributes, (0, FROZEN, 1), False),
    )
    net = Pair()
    remove_units(net, Ties(sides, {"one": (0, 1)}), {0, 1})
    assert net.one.weight.tolist() == [[3.0, 4.0]]


def test_a_grouped_convolution_loses_the_same_place_of_each_group() -> None:
    net = nn.Module()
    net.conv = nn.Conv2d(4, 4, 1, groups=2, bias=False)
    net.conv.weight.data = torch.arange(8.0).view(4, 2, 1, 1)
    sides = (
        Side("conv", {"weight": 0, "bias": 0}, ("out_channels",), (0, 1, 0, 1), True),
        Side("conv", {"weight": 1}, ("in_channels",), (2, 3, 2, 3), False),
    )
    remove_units(net, Ties(sides, {"conv*2": (0, 1)}), {0, 3})
    assert net.conv.weight.flatten().tolist() == [2.0, 6.0]  # rows 1 and 3, of each the first input of its group
    assert (net.conv.in_channels, net.conv.out_channels, net.conv.groups) == (2, 2, 2)


def test_the_producers_of_a_group_are_its_layers_with_their_channels_in_a_unit() -> None:
    sides = (
        Side("one", {}, (), (0, 1), True),
        Side("wide", {}, (), (0, 1, 0, 1), True),
        Side("reads", {}, (), (0, 1), False),
    )
    assert Ties(sides, {"one+wide*2": (0, 1)}).producers("one+wide*2") == {"one": 1, "wide": 2}


def test_a_removal_is_clean_if_all_that_reads_the_channels_is_known() -> None:
    assert removes_cleanly(Pair().eval(), TIES, {0}, PIXELS)
    assert not removes_cleanly(Pair().eval(), Ties((OUTPUTS,), TIES.groups), {0}, PIXELS)  # the second layer fails
    flipped = Side("two", INPUTS.tensors, INPUTS.attributes, (2, 1, 0), False)
    assert not removes_cleanly(Pair().eval(), Ties((OUTPUTS, flipped), TIES.groups), {0}, PIXELS)  # other outputs


def test_checking_a_removal_leaves_the_network_as_it_was() -> None:
    net, before = Pair().train(), Pair()
    removes_cleanly(net, TIES, {0, 2}, PIXELS)
    assert net.training
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_removal_computes_what_the_network_does_with_the_removed_channels_at_zero(name: str) -> None:
    model = seeded(NETWORKS[name])
    ties = tie_channels(model, IMAGE)
    generator = torch.Generator().manual_seed(3)
    units = {
        unit for members in ties.groups.values() for unit in members[1:] if torch.rand((), generator=generator) < 0.4
    }
    assert units
    assert removes_cleanly(model, ties, units, IMAGE)
    smaller = copy.deepcopy(model)
    remove_units(smaller, ties, units)
    assert Parameters()(smaller, IMAGE) < Parameters()(model, IMAGE)
    wrong = Ties(tuple(side for side in ties.sides if side.produces), ties.groups)
    assert not removes_cleanly(model, wrong, units, IMAGE)


def test_shapes_name_the_channel_counts_and_the_tensors_of_each_module() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.LayerNorm(6))
    tensors = {"weight": [4], "bias": [4], "running_mean": [4], "running_var": [4], "num_batches_tracked": []}
    assert shapes_of(net) == {
        "0": {"in_channels": 3, "out_channels": 4, "groups": 1, "shapes": {"weight": [4, 3, 1, 1]}},
        "1": {"num_features": 4, "shapes": tensors},
        "3": {"normalized_shape": [6], "shapes": {"weight": [6], "bias": [6]}},
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_that_went_through_json_rebuild_the_smaller_network(name: str) -> None:
    model = seeded(NETWORKS[name])
    ties = tie_channels(model, IMAGE)
    smaller = copy.deepcopy(model)
    remove_units(smaller, ties, [members[-1] for members in ties.groups.values()])
    rebuilt = seeded(NETWORKS[name])
    give_shapes(rebuilt, json.loads(json.dumps(shapes_of(smaller))))
    assert shapes_of(rebuilt) == shapes_of(smaller) != shapes_of(model)
    rebuilt.load_state_dict(smaller.state_dict())
    assert torch.equal(rebuilt(IMAGE), smaller(IMAGE))


def test_tensors_that_keep_their_shape_keep_their_values() -> None:
    model, smaller = seeded(Plain), seeded(Plain)
    ties = tie_channels(model, IMAGE)
    remove_units(smaller, ties, ties.groups["two"][:3])
    give_shapes(model, shapes_of(smaller))
    assert torch.equal(model.get_parameter("one.weight"), smaller.get_parameter("one.weight"))
    assert not model.get_parameter("two.weight").any()
