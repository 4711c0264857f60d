"""Channels that can only go together are one unit; the image, the logits and what is tied to them are none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from src.primitives.channels import FROZEN, Side, Ties
from src.primitives.tying import tie_channels
from tests.primitives.foreign import Recurrent, Shuffle
from tests.primitives.networks import IMAGE, NETWORKS, Joined, Normalized, Plain, seeded


def sizes(ties: Ties) -> dict[str, int]:
    return {name: len(units) for name, units in ties.groups.items()}


def side(ties: Ties, module: str, *, produces: bool) -> Side:
    (found,) = [each for each in ties.sides if each.module == module and each.produces == produces]
    return found


def test_in_a_chain_each_layer_but_the_last_is_a_group_of_its_own() -> None:
    ties = tie_channels(Plain().eval(), IMAGE)
    assert sizes(ties) == {"one": 16, "two": 24}
    ones, twos = ties.groups["one"], ties.groups["two"]
    assert side(ties, "one", produces=True).units == side(ties, "bn", produces=False).units == ones
    assert side(ties, "two", produces=False).units == ones
    assert side(ties, "fc", produces=False).units == tuple(unit for unit in twos for _ in range(4))  # 2x2 pixels each
    assert set(side(ties, "fc", produces=True).units) == {FROZEN}


def test_sides_name_the_tensors_and_attributes_that_hold_the_channels() -> None:
    ties = tie_channels(Plain().eval(), IMAGE)
    assert side(ties, "one", produces=True).tensors == {"weight": 0, "bias": 0}
    assert side(ties, "one", produces=True).attributes == ("out_channels",)
    assert side(ties, "two", produces=False).tensors == {"weight": 1}
    assert side(ties, "bn", produces=False).tensors == {"weight": 0, "bias": 0, "running_mean": 0, "running_var": 0}
    assert side(ties, "bn", produces=False).attributes == ("num_features",)


def test_layers_that_are_added_up_are_one_group() -> None:
    ties = tie_channels(seeded(NETWORKS["resnet"]), IMAGE)
    assert sizes(ties) == {
        "conv+blocks.0.conv2": 16,
        "blocks.0.conv1": 16,
        "blocks.1.conv1": 32,
        "blocks.1.conv2+blocks.1.shortcut.0": 32,
        "blocks.2.conv1": 64,
        "blocks.2.conv2+blocks.2.shortcut.0": 64,
    }
    assert ties.producers("conv+blocks.0.conv2") == {"conv": 1, "blocks.0.conv2": 1}


def test_grouped_layers_are_tied_by_place_and_concatenated_ones_are_not() -> None:
    ties = tie_channels(seeded(Joined), IMAGE)
    assert sizes(ties) == {"stem+twice": 16, "other": 16, "grouped": 35, "deep*4": 8, "wide*4": 16}
    deep = side(ties, "deep", produces=True).units
    assert deep == 4 * deep[:8]
    joined = side(ties, "bn", produces=False).units
    assert joined[:3] == (FROZEN,) * 3  # the image
    assert joined[3:19] == ties.groups["stem+twice"]
    assert joined[19:] == ties.groups["other"]


def test_a_parameter_outside_every_layer_is_tied_to_the_channels_that_it_scales() -> None:
    ties = tie_channels(seeded(Joined), IMAGE)
    scale = side(ties, "", produces=False)
    assert scale.tensors == {"scale": 1}
    assert scale.units == side(ties, "wide", produces=True).units


def test_a_depthwise_convolution_and_normalizations_are_tied_to_the_layer_before() -> None:
    ties = tie_channels(seeded(Normalized), IMAGE)
    # Group normalization over two groups ties the halves; the depthwise convolution makes two channels of each.
    assert sizes(ties) == {"stem*2+doubled*4+excite*4": 8, "squeeze": 8}
    stem = side(ties, "stem", produces=True).units
    assert stem == 2 * stem[:8]
    assert side(ties, "norm", produces=False).units == side(ties, "act", produces=False).units == stem
    assert side(ties, "doubled", produces=True).units == tuple(unit for unit in stem for _ in range(2))
    assert side(ties, "doubled", produces=False).attributes == ("in_channels", "groups")


def test_what_the_image_and_the_classifier_hold_is_never_a_unit() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.like = nn.Conv2d(3, 3, 1)
            self.conv = nn.Conv2d(3, 16, 1)
            self.head = nn.Conv2d(16, 10, 1)
            self.skip = nn.Conv2d(16, 10, 1)

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.conv(images + self.like(images))
            return (self.head(hidden) + self.skip(hidden)).mean((2, 3))

    assert set(tie_channels(Residual(), IMAGE).groups) == {"conv"}


def test_ignored_layers_freeze_all_that_is_tied_to_them() -> None:
    assert set(tie_channels(Plain().eval(), IMAGE, {"one"}).groups) == {"two"}
    ties = tie_channels(seeded(NETWORKS["resnet"]), IMAGE, {"conv"})
    assert "conv+blocks.0.conv2" not in ties.groups
    assert set(side(ties, "blocks.0.conv2", produces=True).units) == {FROZEN}


def test_channels_of_a_module_that_cannot_be_resized_are_frozen() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.up = nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, stride=2)
            self.two, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(torch.relu(self.two(self.up(self.one(images)))).mean((2, 3)))

    assert set(tie_channels(Transposed().eval(), IMAGE).groups) == {"two"}


def test_tying_leaves_the_network_as_it_was() -> None:
    model = seeded(Joined).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    tie_channels(model, IMAGE)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, images: Tensor) -> Tensor:
            raise KeyError("nothing here")

    with pytest.raises(ValueError, match=r"cannot follow the network's channels \(KeyError: 'nothing here'\)"):
        tie_channels(Broken(), IMAGE)


def test_layers_that_feed_something_not_understood_are_named_and_ignored_ones_are_not() -> None:
    recurrent = tie_channels(seeded(Recurrent), IMAGE)
    assert recurrent.not_followed == ("two",)
    assert set(recurrent.groups) == {"one"}
    assert tie_channels(seeded(NETWORKS["resnet"]), IMAGE, {"conv"}).not_followed == ()
    assert tie_channels(seeded(Recurrent), IMAGE, {"two"}).not_followed == ()


def test_a_channel_shuffle_freezes_what_it_shuffles_and_nothing_else() -> None:
    ties = tie_channels(seeded(Shuffle), IMAGE)
    assert {"inner", "last"} <= set(ties.groups)
