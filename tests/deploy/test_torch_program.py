"""The target torch: exported programs."""

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
from src.device.runtimes import make_floats_of_weights
from src.metrics.graph import macs, parameters
from tests.exported import CARD, MACS, NETS, Quantized, cnn, export, images

FLOATS, HALVES = TorchProgram(stored="float32"), TorchProgram(stored="float16")


@pytest.mark.parametrize("net", ["cnn", "residual"])
def test_outputs_agree_with_torch_at_any_batch_size(tmp_path: Path, net: str) -> None:
    file = export(NETS[net](), FLOATS, tmp_path)
    for count in (1, 64):
        with torch.no_grad():
            expected = file.model(images(count)).numpy()
        np.testing.assert_allclose(file.session(images(count).numpy()), expected, atol=1e-4)
    assert macs(file.graph) == MACS[net]


def test_an_int8_file_is_small_and_computes_as_the_fake_quantized_network(tmp_path: Path, quantized: Quantized) -> None:
    (tmp_path / "float").mkdir()
    plain = export(quantized.plain, FLOATS, tmp_path / "float")
    integer = export(quantized.lowered, FLOATS, tmp_path)
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
    model[1].weight.data = stored.values()
    path = tmp_path / "m.pt2"
    FLOATS.export(model, images(1), path, CARD, {"1.weight": stored})
    with torch.no_grad():
        np.testing.assert_allclose(FLOATS.load(path)(images(5).numpy()), model(images(5)).numpy(), rtol=1e-5)
    assert parameters(FLOATS.graph(path)) == 579
    with zipfile.ZipFile(path) as archive:
        assert 576 in [entry.file_size for entry in archive.infolist()]


def test_float16_weights_take_two_bytes_and_are_widened_once_not_in_every_call(tmp_path: Path) -> None:
    model = NETS["residual"]()
    HALVES.export(model, images(1), tmp_path / "m.pt2", CARD, {})
    program = torch.export.load(tmp_path / "m.pt2")
    stored = list(program.state_dict.values())
    assert {value.dtype for value in stored if value.numel() >= 512} == {torch.float16}
    assert torch.float16 not in {value.dtype for value in stored if value.numel() < 512}
    session = HALVES.load(tmp_path / "m.pt2")
    with torch.no_grad():
        expected = model(images(8)).numpy()
        for parameter in model.parameters():
            if parameter.numel() >= 512:
                parameter.data = parameter.half().float()
        rounded = model(images(8)).numpy()
    found = session(images(8).numpy())
    np.testing.assert_allclose(found, rounded, rtol=1e-5, atol=1e-5)
    assert np.abs(found - expected).max() > 1e-5
    assert parameters(HALVES.graph(tmp_path / "m.pt2")) == sum(p.numel() for p in model.parameters())
    network = torch.export.load(tmp_path / "m.pt2").module()
    make_floats_of_weights(network)
    assert not [node for node in network.graph.nodes if getattr(node.target, "__name__", "").startswith("to.dtype")]


def test_precision_says_arithmetic_and_storage() -> None:
    assert [str(FLOATS.precision(integer)) for integer in (False, True)] == ["float32", "float32, int8 stored"]
    assert str(HALVES.precision(False)) == "float32, float16 stored"
    assert str(HALVES.precision(True)) == "float32, int8 and float16 stored"
    assert not FLOATS.precision(True).integer  # integers are stored, and floats are computed


def test_an_archive_of_something_else_is_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("a.txt", "no program")
    with pytest.raises(InputError, match=r"other.pt2 cannot be loaded by torch: it is no exported program"):
        FLOATS.load(tmp_path / "other.pt2")
    assert capfd.readouterr().err == ""


def test_another_number_format_is_refused() -> None:
    with pytest.raises(ValueError, match="stored must be one of float32, float16"):
        TorchProgram(stored="bf16")


def test_the_file_says_what_it_is_in_any_alphabet(tmp_path: Path) -> None:
    card = replace(CARD, classes=("Größe", "信号", 'say "stop", \\ please'))
    FLOATS.export(cnn(), images(1), tmp_path / "m.pt2", card, {})
    assert FLOATS.read_card(tmp_path / "m.pt2") == card
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        FLOATS.export(cnn(), images(1), tmp_path / name, CARD, {})
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_file_from_elsewhere_is_recognized_by_its_missing_card(tmp_path: Path) -> None:
    program = torch.export.export(cnn(), (images(1),))
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, tmp_path / "foreign.pt2")
    with pytest.raises(InputError, match="does not say its classes"):
        FLOATS.read_card(tmp_path / "foreign.pt2")


@pytest.mark.parametrize("content", [b"", b"I am no network"], ids=["empty", "text"])
def test_a_file_of_something_else_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(content)
    for reading in (FLOATS.load, FLOATS.graph, FLOATS.read_card):
        with pytest.raises(InputError, match="cannot be loaded by torch") as caught:
            reading(path)
        assert str(path) in str(caught.value)


def test_a_checkpoint_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    torch.save(cnn().state_dict(), tmp_path / "m.pt2")
    for name in ("m.pt2", "nowhere.pt2"):
        with pytest.raises(InputError, match="cannot be loaded by torch"):
            FLOATS.load(tmp_path / name)


def test_a_network_that_looks_at_its_values_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) if bool(x.sum() > 0) else x.amax((2, 3))

    with pytest.raises(InputError, match="cannot be exported by torch.export"):
        FLOATS.export(Looking(), images(1), tmp_path / "m.pt2", CARD, {})
    assert not list(tmp_path.iterdir())
