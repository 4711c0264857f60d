"""Weights that a network computes in each call, made plain when it comes in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from src.contracts import DataSplits
from src.models.build import NetworkSource, build_model
from src.models.weights import Weights, save_weights

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Small(nn.Module):
    """A convolution and a dense layer, changed by ``change``."""

    def __init__(self, change: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = change(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), change(nn.Linear(4, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(images)).relu().mean((2, 3)))


def old(name: str) -> Callable[[nn.Module], nn.Module]:
    def change(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(nn.utils, name)(layer)

    return change


CHANGES = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old_weight_norm": old("weight_norm"),
    "old_spectral_norm": old("spectral_norm"),
    "pruned": partial(prune.l1_unstructured, name="weight", amount=0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_computed_weights_become_plain_and_the_function_stays(
    splits: DataSplits, change: Callable[..., nn.Module]
) -> None:
    torch.manual_seed(0)
    given = Small(change)
    before = given.eval()(IMAGES).detach()
    said: list[str] = []
    model = build_model(lambda: given, splits, 0, say=said.append).eval()
    assert sorted(name for name, _ in model.named_parameters()) == sorted(
        ["conv.weight", "conv.bias", "bn.weight", "bn.bias", "fc.weight", "fc.bias"]
    )
    assert not [module for module in model.modules() if module._forward_pre_hooks]
    torch.testing.assert_close(model(IMAGES), before, rtol=1e-5, atol=1e-6)
    assert said == ["weights that were computed in each forward pass are now plain parameters: conv, fc"]


def test_plain_weights_are_left_and_nothing_is_said(splits: DataSplits) -> None:
    said: list[str] = []
    build_model(partial(Small, lambda layer: layer), splits, 0, say=said.append)
    assert said == []


def test_a_checkpoint_of_computed_weights_loads_and_so_does_one_of_the_plain_ones(
    splits: DataSplits, tmp_path: Path
) -> None:
    builder = partial(Small, parametrizations.weight_norm)
    torch.manual_seed(5)
    trained = Small(parametrizations.weight_norm).eval()
    torch.save({"model": nn.DataParallel(trained).state_dict()}, tmp_path / "theirs.pt")
    model = build_model(NetworkSource(builder, weights=Weights(tmp_path / "theirs.pt")), splits, 0).eval()
    torch.testing.assert_close(model(IMAGES), trained(IMAGES))
    save_weights(model, tmp_path / "ours.safetensors")
    again = build_model(NetworkSource(builder, weights=Weights(tmp_path / "ours.safetensors")), splits, 1).eval()
    assert torch.equal(again(IMAGES), model(IMAGES))
