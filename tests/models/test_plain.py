"""Checkpoints that hold normalized or masked weights, loaded into networks that have plain ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from src.contracts import InputError
from src.models.weights import MisfitError, Weights, load_weights

IMAGES = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(3))


def network(seed: int) -> nn.Sequential:
    """Both kinds of convolution, of which weight normalization takes other dimensions, and a dense layer."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 3, 3, bias=False), nn.Flatten(), nn.Linear(192, 5)]
    return nn.Sequential(*layers).eval()


def normalized(module: nn.Module) -> None:
    parametrizations.weight_norm(module, dim=1 if isinstance(module, nn.ConvTranspose2d) else 0)


def normalized_as_a_whole(module: nn.Module) -> None:
    weight_norm(module, dim=None)


def masked(module: nn.Module) -> None:
    prune.l1_unstructured(module, "weight", 0.5)


def saved(path: Path, change: Callable[[nn.Module], object], wrapped: bool = False) -> nn.Module:
    """A network with changed layers whose state dict was saved to ``path``."""
    model = network(0)
    for layer in model:
        if hasattr(layer, "weight"):
            change(layer)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    torch.save({"model": (nn.DataParallel(model) if wrapped else model).state_dict(), "epoch": 3}, path)
    return model


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("change", [normalized, weight_norm, normalized_as_a_whole, masked])
def test_the_weights_are_computed_and_said(
    tmp_path: Path, change: Callable[[nn.Module], object], wrapped: bool
) -> None:
    trained = saved(tmp_path / "w.pt", change, wrapped)
    plain = network(1)
    line = load_weights(plain, tmp_path / "w.pt")
    assert "computed 3 weights that the file holds normalized or masked" in line
    assert "took model" in line
    assert ("'module.'" in line) == wrapped
    torch.testing.assert_close(plain(IMAGES), trained(IMAGES))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("change", [normalized, weight_norm, masked])
def test_a_network_that_computes_its_weights_itself_loads_the_pairs(
    tmp_path: Path, change: Callable[[nn.Module], object]
) -> None:
    trained = saved(tmp_path / "w.pt", change)
    other = saved(tmp_path / "other.pt", change)
    assert "computed" not in load_weights(other, Weights(tmp_path / "w.pt"))
    assert torch.equal(other(IMAGES), trained(IMAGES))


def test_a_pair_of_other_shapes_and_half_a_pair_are_refused(tmp_path: Path) -> None:
    model = network(0)
    state = dict(model.state_dict())
    weight = state.pop("3.weight")
    torch.save(state | {"3.weight_orig": weight, "3.weight_mask": torch.ones(7, 2)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"the shapes of 3\.weight_orig and 3\.weight_mask do not go together"):
        load_weights(model, tmp_path / "w.pt")
    torch.save(state | {"3.weight_orig": weight}, tmp_path / "w.pt")
    with pytest.raises(MisfitError, match=r"3\.weight is missing; 3\.weight_orig is unknown to the model"):
        load_weights(model, tmp_path / "w.pt")
