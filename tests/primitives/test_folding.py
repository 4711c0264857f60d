"""Folding batch normalization into the layer before it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from src.models.resnet import CifarResNet
from src.primitives.folding import NORMS, fold, fold_batch_norm, foldable_pairs
from tests.primitives.foreign import IMAGE, NormAct, SamePadding, Standardized, Timmish
from tests.primitives.networks import settled


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def folds_to_the_same(model: nn.Module, example: Tensor, others: Tensor | None = None) -> list[tuple[str, str]]:
    """Fold a copy, demand equal outputs for ``example`` and four other images, and return the pairs."""
    others = images(4, *example.shape[1:]) if others is None else others
    folded = copy.deepcopy(model)
    pairs = fold_batch_norm(folded, example)
    with torch.no_grad():
        torch.testing.assert_close(folded(example), model(example), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(folded(others), model(others), rtol=1e-4, atol=1e-5)
    for layer, norm in pairs:
        assert isinstance(folded.get_submodule(norm), nn.Identity)
        assert type(folded.get_submodule(layer)) is type(model.get_submodule(layer))
    assert sum(isinstance(m, NORMS) for m in folded.modules()) + len(pairs) == sum(
        isinstance(m, NORMS) for m in model.modules()
    )
    return pairs


def test_four_weights_fold_as_computed_by_hand() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, eps=0.0)).eval()
    net[0].weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    net[0].bias.data = torch.tensor([1.0, 1.0])
    net[1].running_mean, net[1].running_var = torch.tensor([1.0, 3.0]), torch.tensor([4.0, 0.25])
    net[1].weight.data, net[1].bias.data = torch.tensor([2.0, 1.0]), torch.tensor([0.5, -1.0])
    assert fold_batch_norm(net, images(1, 2)) == [("0", "1")]
    # gamma / sigma is 2/2 = 1 and 1/0.5 = 2; the bias is (b - mean) gamma / sigma + beta
    assert net[0].weight.tolist() == [[1.0, 2.0], [6.0, 8.0]]
    assert net[0].bias.tolist() == [0.5, -5.0]


def test_folded_weights_follow_the_closed_form_in_float64() -> None:
    net = settled(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).double())
    weight, norm = net[0].weight.detach().clone(), copy.deepcopy(net[1])
    fold_batch_norm(net, images(1, 3, 6, 6).double())
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    torch.testing.assert_close(net[0].weight, weight * scale.view(-1, 1, 1, 1), rtol=1e-12, atol=0)
    torch.testing.assert_close(net[0].bias, norm.bias - norm.running_mean * scale, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_and_its_norm_become_one(bias: bool) -> None:
    net = settled(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias), nn.BatchNorm2d(4), nn.ReLU()))
    assert folds_to_the_same(net, images(1, 3, 8, 8)) == [("0", "1")]


def test_a_depthwise_convolution_and_its_norm_become_one() -> None:
    net = settled(nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)))
    assert folds_to_the_same(net, images(1, 4, 8, 8)) == [("0", "1")]


def test_convolutions_of_one_and_of_three_dimensions_fold_too() -> None:
    line = settled(nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)))
    volume = settled(nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)))
    assert folds_to_the_same(line, images(1, 3, 8)) == [("0", "1")]
    assert folds_to_the_same(volume, images(1, 3, 5, 5, 5)) == [("0", "1")]


@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_and_its_norm_become_one(bias: bool) -> None:
    net = settled(nn.Sequential(nn.Linear(6, 5, bias=bias), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)))
    assert folds_to_the_same(net, images(1, 6)) == [("0", "1")]


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), (1, 3, 8, 8)),
        (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False)), (1, 6)),
    ],
    ids=["convolution", "dense"],
)
def test_a_norm_without_scale_and_shift_of_its_own_folds(net: nn.Module, shape: tuple[int, ...]) -> None:
    assert folds_to_the_same(settled(net), images(*shape)) == [("0", "1")]


def test_a_norm_that_keeps_no_running_statistics_is_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert folds_to_the_same(net, images(1, 3, 8, 8)) == []


def test_a_norm_over_the_steps_of_a_sequence_is_left_alone() -> None:
    """A dense layer gives [n, 4, 3] here, and the norm has one scale for each of the 4 steps, not of the 3 units."""
    net = settled(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(4)))
    assert folds_to_the_same(net, images(1, 4, 2)) == []


@pytest.mark.parametrize("depth", [8, 14])
def test_every_norm_of_a_residual_network_is_folded(depth: int) -> None:
    net = settled(CifarResNet(depth=depth, num_classes=4, in_channels=3))
    pairs = folds_to_the_same(net, images(1, 3, 16, 16))
    norms = [name for name, module in net.named_modules() if isinstance(module, NORMS)]
    assert sorted(norm for _, norm in pairs) == sorted(norms)
    assert sum(layer.endswith("shortcut.0") for layer, _ in pairs) == 2


class Branch(nn.Module):
    """A convolution whose output is read by its norm and by ``also``."""

    def __init__(self, also: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.also = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), also

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x)
        return self.norm(hidden) + self.also(hidden)


def test_a_convolution_whose_output_is_also_used_elsewhere_is_left_alone() -> None:
    assert folds_to_the_same(settled(Branch(nn.Identity())), images(1, 3, 8, 8)) == []


def test_a_convolution_read_by_two_norms_is_left_alone() -> None:
    assert folds_to_the_same(settled(Branch(nn.BatchNorm2d(4))), images(1, 3, 8, 8)) == []


class Loud(nn.Module):
    """Passes what exceeds 5, which a faint image never does."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(x - 5)


def test_a_use_elsewhere_that_the_example_does_not_excite_still_forbids_folding() -> None:
    net = settled(Branch(Loud()))
    assert folds_to_the_same(net, 0.1 * images(1, 3, 8, 8), others=20 * images(4, 3, 8, 8)) == []


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.conv(x)))


def test_a_convolution_called_twice_is_left_alone() -> None:
    assert foldable_pairs(settled(Twice()), images(1, 3, 8, 8)) == []
    assert folds_to_the_same(settled(Twice()), images(1, 3, 8, 8)) == []


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(relu(self.norm(self.first(x)))))


def test_a_norm_called_twice_is_left_alone() -> None:
    assert folds_to_the_same(settled(Shared()), images(1, 3, 8, 8)) == []


@pytest.mark.parametrize("inplace", [True, False])
def test_a_norm_behind_an_activation_is_left_alone(inplace: bool) -> None:
    net = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=inplace), nn.BatchNorm2d(4)))
    assert folds_to_the_same(net, images(1, 3, 8, 8)) == []


def test_a_network_without_a_norm_is_left_alone() -> None:
    assert folds_to_the_same(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), images(1, 3, 8, 8)) == []


def test_only_the_pairs_that_may_be_folded_are() -> None:
    net = settled(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), Twice(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert folds_to_the_same(net, images(1, 3, 8, 8)) == [("0", "1"), ("3", "4")]


def test_folding_the_recorded_pairs_rebuilds_the_same_network() -> None:
    net = settled(CifarResNet(depth=8, num_classes=4, in_channels=3))
    first, second = copy.deepcopy(net), copy.deepcopy(net)
    pairs = fold_batch_norm(first, images(1, 3, 16, 16))
    fold(second, pairs)
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_looking_for_pairs_leaves_no_hook_behind() -> None:
    net = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert foldable_pairs(net, images(1, 3, 8, 8)) == [("0", "1")]
    assert not any(module._forward_hooks for module in net.modules())


def test_of_a_norm_with_an_activation_the_activation_stays() -> None:
    torch.manual_seed(0)
    model = settled(Timmish())
    folded = copy.deepcopy(model)
    assert fold_batch_norm(folded, IMAGE) == [("stem", "norm")]
    assert [type(child) for child in folded.norm.children()] == [nn.ReLU]  # type: ignore[union-attr]
    assert torch.allclose(folded(IMAGE), model(IMAGE), atol=1e-5)
    again = fold(copy.deepcopy(model), [("stem", "norm")])
    assert torch.equal(again(IMAGE), folded(IMAGE))


@pytest.mark.parametrize(("kind", "folds"), [(SamePadding, True), (Standardized, False)])
def test_a_convolution_with_a_forward_of_its_own_folds_if_it_takes_its_weight_as_it_is(
    kind: type[nn.Conv2d], folds: bool
) -> None:
    torch.manual_seed(0)
    model = settled(nn.Sequential(kind(3, 8, 3), NormAct(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)))
    folded = copy.deepcopy(model)
    pairs = fold_batch_norm(folded, IMAGE)
    assert pairs == [*([("0", "1")] if folds else []), ("2", "3")]
    assert type(folded[0]) is kind  # type: ignore[index]
    assert torch.allclose(folded(IMAGE), model(IMAGE), atol=1e-5)
