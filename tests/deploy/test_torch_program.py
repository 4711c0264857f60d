"""Exported programs."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.contracts import InputError, StoredWeight
from src.deploy.torch_program import TorchProgram
from src.metrics.graph import macs, parameters
from tests.deploy.conftest import CARD, NETS, Quantized, cnn, export, images
from tests.deploy.test_onnx_export import MACS


@pytest.mark.parametrize("net", ["cnn", "residual"])
def test_outputs_agree_with_torch_at_any_batch_size(tmp_path: Path, net: str) -> None:
    file = export(NETS[net](), TorchProgram(), tmp_path)
    for count in (1, 64):
        with torch.no_grad():
            expected = file.model(images(count)).numpy()
        np.testing.assert_allclose(file.session(images(count).numpy()), expected, atol=1e-4)
    assert macs(file.graph) == MACS[net]


def test_an_int8_file_is_small_and_computes_as_the_fake_quantized_network(tmp_path: Path, quantized: Quantized) -> None:
    (tmp_path / "float").mkdir()
    plain = export(quantized.plain, TorchProgram(), tmp_path / "float")
    integer = export(quantized.lowered, TorchProgram(), tmp_path)
    with torch.no_grad():
        expected = quantized.lowered(images(64)).numpy()
    np.testing.assert_allclose(integer.session(images(64).numpy()), expected, atol=1e-4)
    with zipfile.ZipFile(integer.path) as archive:
        sizes = [entry.file_size for entry in archive.infolist()]
    shapes = [weight for weight in quantized.plain.parameters() if weight.dim() >= 2]
    assert all(weight.numel() in sizes for weight in shapes)  # a byte each
    assert integer.size_bytes < 0.5 * plain.size_bytes
    assert parameters(integer.graph) == sum(w.numel() for w in quantized.lowered.parameters())


def test_four_weights_of_few_bits_are_stored_as_bytes_and_come_back(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
    integers = torch.randint(0, 16, (3, 192), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    stored = StoredWeight(integers, 4, torch.tensor([0.5, 0.25, 2.0]), torch.tensor([8, 3, 0], dtype=torch.int32))
    model[1].weight.data = (integers - stored.zero_point[:, None]) * stored.scale[:, None]
    path = tmp_path / "m.pt2"
    TorchProgram().export(model, images(1), path, CARD, {"1.weight": stored})
    with torch.no_grad():
        np.testing.assert_allclose(TorchProgram().load(path)(images(5).numpy()), model(images(5)).numpy(), rtol=1e-5)
    assert parameters(TorchProgram().graph(path)) == 579
    with zipfile.ZipFile(path) as archive:
        assert 576 in [entry.file_size for entry in archive.infolist()]


def test_the_file_says_what_it_is_in_any_alphabet(tmp_path: Path) -> None:
    card = replace(CARD, classes=("Größe", "信号", 'say "stop", \\ please'))
    TorchProgram().export(cnn(), images(1), tmp_path / "m.pt2", card, {})
    assert TorchProgram().read_card(tmp_path / "m.pt2") == card
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        TorchProgram().export(cnn(), images(1), tmp_path / name, CARD, {})
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_file_of_another_hand_is_told_by_its_missing_card(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(cnn(), (images(1),)), tmp_path / "foreign.pt2")
    with pytest.raises(InputError, match="does not say its classes"):
        TorchProgram().read_card(tmp_path / "foreign.pt2")


@pytest.mark.parametrize("content", [b"", b"I am no network"], ids=["empty", "text"])
def test_a_file_of_something_else_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(content)
    for reading in (TorchProgram().load, TorchProgram().graph, TorchProgram().read_card):
        with pytest.raises(InputError, match="cannot be loaded by torch") as caught:
            reading(path)
        assert str(path) in str(caught.value)


def test_a_checkpoint_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    torch.save(cnn().state_dict(), tmp_path / "m.pt2")
    for name in ("m.pt2", "nowhere.pt2"):
        with pytest.raises(InputError, match="cannot be loaded by torch"):
            TorchProgram().load(tmp_path / name)


def test_a_network_that_looks_at_its_values_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) if bool(x.sum() > 0) else x.amax((2, 3))

    with pytest.raises(InputError, match="cannot be exported by torch.export"):
        TorchProgram().export(Looking(), images(1), tmp_path / "m.pt2", CARD, {})
    assert not list(tmp_path.iterdir())


def test_precision_says_arithmetic_and_storage() -> None:
    said = (TorchProgram().precision(False), TorchProgram().precision(True))
    assert said == ("float32", "float32, int8 stored")
