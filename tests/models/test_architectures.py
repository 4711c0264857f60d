"""The networks that come with the project, as their configuration files build them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from src.models.resnet import BasicBlock

CONF = Path(__file__).parents[2] / "conf"
GREY_28, COLOUR_32, GREY_8 = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def configured(name: str, shape: tuple[int, int, int], classes: int = 10, **settings: Any) -> nn.Module:
    """The network of ``conf/model/<name>.yaml`` without memory for its weights, which counting does not need."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(compose(f"model/{name}").model)), settings)
    known = {"num_classes": classes, "in_channels": shape[0], "image_size": shape[1:]}
    if config._target_.startswith("src."):
        del config["weights"]
    builder = instantiate(config, _partial_=True, _convert_="all")
    wanted = {key: value for key, value in known.items() if key in inspect.signature(builder).parameters}
    with torch.device("meta"):
        return builder(**(wanted or {"num_classes": classes})).eval()


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        # 784*300+300 + 300*100+100 + 100*10+10
        ("lenet300", GREY_28, 266_610),
        # 20*25+20 + 50*20*25+50 + 800*500+500 + 500*10+10
        ("lenet5", GREY_28, 431_080),
        # 32*9+32 + 64*32*9+64 + 64*12*12*120+120 + 120*10+10
        ("mnist_cnn", GREY_28, 320 + 18_496 + 1_106_040 + 1_210),
    ],
)
def test_parameters_are_counted_by_hand_to_the_last(name: str, shape: tuple[int, int, int], parameters: int) -> None:
    assert count(configured(name, shape)) == parameters


@pytest.mark.parametrize(
    ("name", "shape", "classes", "millions", "tolerance"),
    [
        ("mnist_cnn", GREY_28, 10, 1.126, 0.001),
        ("cifar_cnn", COLOUR_32, 10, 1.12, 0.01),
        ("gtsrb_cnn", COLOUR_32, 43, 1.13, 0.01),
        ("small_cnn", GREY_8, 10, 0.16, 0.005),
        ("vgg16", COLOUR_32, 10, 15.0, 0.1),
        ("vgg16_imagenet", (3, 224, 224), 1000, 138.0, 0.5),
        ("resnet20", COLOUR_32, 10, 0.27, 0.005),
        ("resnet56", COLOUR_32, 10, 0.86, 0.005),
        ("mobilenetv2", COLOUR_32, 10, 2.2, 0.05),
    ],
)
def test_networks_have_the_size_that_their_papers_and_files_say(
    name: str, shape: tuple[int, int, int], classes: int, millions: float, tolerance: float
) -> None:
    assert count(configured(name, shape, classes)) / 1e6 == pytest.approx(millions, abs=tolerance)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet300", GREY_28),
        ("lenet300", COLOUR_32),
        ("lenet5", GREY_28),
        ("lenet5", COLOUR_32),
        ("lenet5", (3, 17, 30)),
        ("mnist_cnn", GREY_28),
        ("small_cnn", GREY_8),
        ("small_cnn", (3, 20, 33)),
        ("cifar_cnn", COLOUR_32),
        ("gtsrb_cnn", COLOUR_32),
        ("vgg16", COLOUR_32),
        ("vgg16", (3, 64, 48)),
        ("resnet20", GREY_28),
        ("resnet56", COLOUR_32),
        ("mobilenetv2", COLOUR_32),
        ("mobilenetv2", (1, 28, 28)),
    ],
)
def test_images_become_logits(name: str, shape: tuple[int, int, int]) -> None:
    model = configured(name, shape, classes=7)
    assert model(torch.empty(2, *shape, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lenet5", (1, 15, 28), "at least 16x16, and these are 15x28"),
        ("vgg16", (3, 28, 28), "5 poolings shrink an image of 28x28 to nothing"),
        ("cifar_cnn", (3, 3, 32), "2 blocks shrink an image of 3x32 to nothing"),
    ],
)
def test_images_that_are_too_small_are_refused(name: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        configured(name, shape)
    assert isinstance(caught.value.__cause__ or caught.value, ValueError)


def test_a_resnet_has_as_many_weighted_layers_as_its_depth() -> None:
    for depth in (8, 20, 56):
        model = configured("resnet20", COLOUR_32, depth=depth)
        layers = [
            name
            for name, module in model.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear)) and "shortcut" not in name
        ]
        assert len(layers) == depth


@pytest.mark.parametrize("depth", [2, 9, 18])
def test_a_resnet_of_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(Exception, match=rf"depth must be 6n \+ 2 .* is {depth}") as caught:
        configured("resnet20", COLOUR_32, depth=depth)
    assert isinstance(caught.value.__cause__ or caught.value, ValueError)


def test_a_block_whose_convolutions_are_zero_passes_its_input_on() -> None:
    block = BasicBlock(4, 4, 1).eval()
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
    images = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(block(images), images)


def test_a_block_that_changes_the_shape_projects_its_input() -> None:
    block = BasicBlock(4, 8, 2).eval()
    assert block(torch.rand(2, 4, 6, 6)).shape == (2, 8, 3, 3)
    assert block.shortcut[0].weight.shape == (8, 4, 1, 1)


def test_the_stride_of_mobilenets_stem_decides_the_detail() -> None:
    for stride, side in ((1, 32), (2, 16)):
        model = configured("mobilenetv2", COLOUR_32, stem_stride=stride)
        assert model.net.features[0](torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 32, side, side)
