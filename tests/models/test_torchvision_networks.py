"""Networks of torchvision by name, with published weights if torch's cache has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from src.contracts import DataSplits, ImageSet, InputError
from src.models.build import build_model
from src.models.torchvision_networks import torchvision_network


def network(name: str, pretrained: bool = False) -> Callable[..., nn.Module]:
    return partial(torchvision_network, name=name, pretrained=pretrained)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "googlenet", "vit_b_32"])
def test_torchvisions_networks_get_classes_channels_and_size(name: str) -> None:
    grey = torchvision_network(name=name, pretrained=False, num_classes=7, in_channels=1, image_size=(64, 64)).eval()
    assert grey(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenet_v3_smal", "torchvision has no network .* Did you mean mobilenet_v3_small"),
        ("fasterrcnn_resnet50_fpn", "torchvision has no network 'fasterrcnn_resnet50_fpn' for classif"),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_the_nearest(splits: DataSplits, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(network(name), splits, 0)


# Published weights --------------------------------------------------------------------------------


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def test_weights_that_no_cache_has_are_never_random_ones(splits: DataSplits, caches: Path) -> None:
    with pytest.raises(InputError, match=r"model\.pretrained: .*this line downloads them: python"):
        build_model(network("resnet18", True), splits, 0)


def enlarged(part: ImageSet) -> ImageSet:
    """Images of four times the side."""
    return ImageSet(part.images.repeat_interleave(4, 2).repeat_interleave(4, 3), part.labels)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_torchvisions_weights_come_from_torchs_cache_and_the_head_is_new(
    splits: DataSplits, caches: Path, name: str
) -> None:
    published = torchvision.models.get_model(name, weights=None)
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    (caches / "torch" / "checkpoints").mkdir(parents=True)
    torch.save(published.state_dict(), caches / "torch" / "checkpoints" / Path(url).name)
    large = replace(splits, **{part: enlarged(getattr(splits, part)) for part in ("train", "validation", "test")})
    model = build_model(network(name, True), large, 0).eval()
    first = next(iter(published.state_dict()))
    assert torch.equal(model.state_dict()[first], published.state_dict()[first])
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    assert model.input_contract.crop == 224 / 256
