"""Building a network for its data."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from src.contracts import DataSplits, InputError
from src.models.build import Network, build_model, check_fit
from src.models.lenet import LeNet5
from src.models.mobilenet import MobileNetV2
from src.models.resnet import CifarResNet
from src.models.small_cnn import SmallCNN
from src.models.vgg import Vgg

SMALL = partial(SmallCNN, blocks=[[4]], dense=8, padding=1, batch_norm=True, dropout=0.0)


class Fixed(nn.Module):
    """A user's network: ten classes and three channels, whatever the data."""

    def __init__(self, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv(images).mean((2, 3)))


@pytest.mark.parametrize(
    "builder",
    [
        SMALL,
        LeNet5,
        partial(CifarResNet, depth=8),
        partial(MobileNetV2, width=0.25, stem_stride=1),
        partial(Vgg, blocks=[[4], [8]], dense=8, dropout=0.0),
        Fixed,
    ],
    ids=["small_cnn", "lenet5", "resnet", "mobilenet", "vgg", "a_users_own"],
)
def test_a_network_gives_one_logit_a_class(splits: DataSplits, builder: type[nn.Module]) -> None:
    model = build_model(builder, splits, 0).eval()
    assert model(torch.zeros(5, 3, 16, 16)).shape == (5, 10)


@pytest.mark.parametrize(
    "name", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small", "mnasnet0_5", "regnet_y_400mf"]
)
def test_torchvisions_builders_get_the_number_of_classes(splits: DataSplits, name: str) -> None:
    builder = partial(getattr(torchvision.models, name), weights=None)
    model = build_model(builder, splits, 0).eval()
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


def test_the_data_says_classes_channels_and_size(splits: DataSplits) -> None:
    given = {}

    def builder(*, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
        given.update(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        return Fixed()

    build_model(builder, splits, 0)
    assert given == {"num_classes": 10, "in_channels": 3, "image_size": (16, 16)}


def test_a_builder_of_any_keyword_gets_the_number_of_classes_alone(splits: DataSplits) -> None:
    given = {}

    def builder(**settings: int) -> nn.Module:
        given.update(settings)
        return Fixed()

    build_model(builder, splits, 0)
    assert given == {"num_classes": 10}


def test_the_same_seed_builds_the_same_weights_and_another_seed_others(splits: DataSplits) -> None:
    first, again, other = (build_model(SMALL, splits, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.2.weight"], other["classifier.2.weight"])


def test_a_sequential_root_is_wrapped(splits: DataSplits) -> None:
    def sequential() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 10))

    model = build_model(sequential, splits, 0)
    assert type(model) is Network
    assert list(model.state_dict()) == ["net.0.weight", "net.0.bias", "net.3.weight", "net.3.bias"]
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(images), model.net(images))


def test_a_class_that_is_a_sequential_is_wrapped_too(splits: DataSplits) -> None:
    class Flat(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(768, 10)))

    assert type(build_model(Flat, splits, 0)) is Network


def test_another_root_is_not_wrapped(splits: DataSplits) -> None:
    assert type(build_model(Fixed, splits, 0)) is Fixed


def test_a_new_network_is_in_training_mode(splits: DataSplits) -> None:
    assert build_model(SMALL, splits, 0).training


def test_trying_an_image_changes_no_running_statistics(splits: DataSplits) -> None:
    model = build_model(SMALL, splits, 0)
    assert int(model.features[1].num_batches_tracked) == 0
    assert model.features[1].running_mean.tolist() == [0] * 4


@pytest.mark.parametrize("training", [True, False])
def test_checking_keeps_the_mode(splits: DataSplits, training: bool) -> None:
    model = Fixed().train(training)
    check_fit(model, splits)
    assert model.training is training


# What does not fit --------------------------------------------------------------------------------


def test_a_network_for_another_number_of_channels_is_refused(splits: DataSplits) -> None:
    with pytest.raises(InputError, match=r"does not fit shapes's images of 3 channels and 16x16 pixels"):
        build_model(partial(Fixed, channels=1), splits, 0)


def test_a_network_for_another_number_of_classes_is_refused(splits: DataSplits) -> None:
    with pytest.raises(InputError, match=r"gives \(1, 7\); it must give 10 logits"):
        build_model(partial(Fixed, classes=7), splits, 0)


def test_a_network_for_larger_images_is_refused(splits: DataSplits) -> None:
    with pytest.raises(InputError, match="shrink an image of 16x16 to nothing"):
        build_model(partial(Vgg, blocks=[[4]] * 5, dense=8, dropout=0.0), splits, 0)


def test_a_network_that_asserts_its_image_size_is_refused(splits: DataSplits) -> None:
    """As torchvision's vision transformers do."""

    class Asserting(Fixed):
        def forward(self, images: Tensor) -> Tensor:
            torch._assert(images.shape[2] == 224, "Wrong image height! Expected 224")
            return super().forward(images)

    with pytest.raises(InputError, match="Wrong image height! Expected 224"):
        build_model(Asserting, splits, 0)


def test_a_network_that_wants_more_than_images_is_refused(splits: DataSplits) -> None:
    class TwoInputs(Fixed):
        def forward(self, images: Tensor, depth: Tensor) -> Tensor:
            return super().forward(images) + depth

    with pytest.raises(
        InputError, match=r"it takes 2 inputs \(images, depth\), and this project gives a network only images"
    ):
        build_model(TwoInputs, splits, 0)


def test_logits_of_each_pixel_are_refused(splits: DataSplits) -> None:
    def segments() -> nn.Module:
        return nn.Conv2d(3, 10, 1)

    with pytest.raises(InputError, match=r"gives \(1, 10, 16, 16\): a class for each pixel.*; it must give 10 logits"):
        build_model(segments, splits, 0)


def test_a_builder_that_refuses_its_arguments_is_quoted(splits: DataSplits) -> None:
    with pytest.raises(InputError, match=r"model: depth must be 6n \+ 2"):
        build_model(partial(CifarResNet, depth=9), splits, 0)


def test_a_builder_with_an_argument_missing_is_quoted(splits: DataSplits) -> None:
    with pytest.raises(InputError, match="depth"):
        build_model(CifarResNet, splits, 0)


def test_a_target_that_is_no_module_is_refused(splits: DataSplits) -> None:
    def builder() -> dict[str, int]:
        return {}

    with pytest.raises(InputError, match="the target built a dict, not a torch.nn.Module"):
        build_model(builder, splits, 0)
