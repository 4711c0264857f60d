"""The target packed: the file is unpacked and its graph run; the card and the counts come from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from src.contracts import InputError, ModelCard
from src.deploy.onnxruntime import CPU, OnnxRuntime
from src.deploy.packed import PROFILES, PackedFile

CARD = ModelCard(("a", "b", "c"), (1, 8, 8), (0.5,), (0.25,), "0123456789abcdef")


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 3))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(parameter.abs() > parameter.abs().median())
    return made.eval()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_packed_file_gives_the_logits_the_card_and_the_counts_of_the_onnx_file(
    tmp_path: Path, net: nn.Module, profile: str
) -> None:
    example, images = torch.zeros(1, 1, 8, 8), torch.randn(5, 1, 8, 8).numpy()
    target, onnx = PackedFile(profile=profile, exact="bits"), OnnxRuntime(provider=CPU, stored="float32")
    (file,) = target.export(net, example, tmp_path / "net.dnnc", CARD, {})
    (plain,) = onnx.export(net, example, tmp_path / "net.onnx", CARD, {})
    assert np.array_equal(target.load(file)(images), onnx.load(plain)(images))
    assert target.read_card(file) == CARD
    assert {name: part.nonzero for name, part in target.graph(file).tensors.items() if part.nonzero is not None} == {
        name: part.nonzero for name, part in onnx.graph(plain).tensors.items() if part.nonzero is not None
    }
    assert target.opset(file) == onnx.opset(plain)
    assert file.stat().st_size < 0.8 * plain.stat().st_size


def test_exact_outputs_gives_the_same_logits_to_float_rounding(tmp_path: Path, net: nn.Module) -> None:
    example, images = torch.zeros(1, 1, 8, 8), torch.randn(5, 1, 8, 8)
    target = PackedFile(profile="small", exact="outputs")
    (file,) = target.export(net, example, tmp_path / "net.dnnc", CARD, {})
    with torch.no_grad():
        assert np.allclose(target.load(file)(images.numpy()), net(images).numpy(), atol=1e-5)


def test_what_is_no_packed_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "net.dnnc").write_bytes(b"PK\3\4" + bytes(50))
    with pytest.raises(InputError, match="this is no packed file"):
        PackedFile(profile="fast", exact="bits").load(tmp_path / "net.dnnc")


@pytest.mark.parametrize(("profile", "exact"), [("tiny", "bits"), ("fast", "almost")])
def test_options_that_do_not_exist_are_refused(profile: str, exact: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        PackedFile(profile=profile, exact=exact)
