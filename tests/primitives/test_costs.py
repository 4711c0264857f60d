"""Costs are counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from src.models.small_cnn import SmallCNN
from src.primitives.costs import Bytes, Channels, Cost, Macs, Parameters


class Net(nn.Module):
    """A convolution used twice, one of two groups, batch norm, and a classifier of five."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.twice = nn.Conv2d(4, 4, 1)
        self.grouped = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.bn = nn.BatchNorm2d(6)
        self.never = nn.Linear(7, 7)
        self.fc = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.twice(self.twice(self.stem(images)))
        return self.fc(self.bn(self.grouped(hidden)).mean((2, 3)))


IMAGE = torch.zeros(1, 3, 8, 8)
PARAMETERS = 108 + (16 + 4) + (6 * 2 * 9 + 6) + 12 + (49 + 7) + (30 + 5)


@pytest.mark.parametrize(
    ("cost", "wanted"),
    [
        (Channels(), 4 + 4 + 6),
        (Macs(), 64 * 108 + 2 * 64 * 16 + 16 * 6 * 2 * 9 + 30),
        (Parameters(), PARAMETERS),
        (Bytes(), 4 * PARAMETERS + 4 * 12 + 8),  # mean and variance, and the count of batches in int64
    ],
)
def test_each_cost_is_the_sum_by_hand(cost: Cost, wanted: int) -> None:
    assert cost(Net(), IMAGE) == wanted


def test_macs_are_those_of_one_image_whatever_the_batch() -> None:
    assert Macs()(Net(), IMAGE.expand(3, 3, 8, 8)) == Macs()(Net(), IMAGE)


def test_macs_of_a_transposed_convolution_count_what_each_input_spreads() -> None:
    assert Macs()(nn.ConvTranspose2d(3, 4, 3, stride=2), IMAGE) == 64 * 3 * 4 * 9


def test_bytes_are_of_each_tensors_own_type() -> None:
    assert Bytes()(nn.Linear(4, 2).half(), IMAGE) == 2 * 10


def test_a_shared_parameter_counts_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    assert Parameters()(net, IMAGE) == 16


def test_counting_leaves_the_network_as_it_was() -> None:
    net = Net().train()
    net.stem.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for cost in (Channels(), Macs(), Parameters(), Bytes()):
        cost(net, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training
    assert net.bn.training
    assert not net.stem.training
    assert not any(module._forward_hooks for module in net.modules())


def test_macs_of_a_small_cnn_are_the_sum_over_its_layers() -> None:
    net = SmallCNN(
        blocks=[[8], [16]],
        dense=32,
        padding=1,
        batch_norm=True,
        dropout=0.0,
        num_classes=10,
        in_channels=3,
        image_size=(16, 16),
    )
    by_hand = 256 * 8 * 27 + 64 * 16 * 8 * 9 + 16 * 16 * 32 + 32 * 10
    assert Macs()(net, torch.zeros(1, 3, 16, 16)) == by_hand
