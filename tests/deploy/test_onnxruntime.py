"""Files in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from src.contracts import InputError
from src.deploy.onnxruntime import OnnxRuntime
from tests.deploy.conftest import CARD, Exported, Quantized, cnn, export, images


@pytest.mark.parametrize("net", ["cnn", "residual"])
@pytest.mark.parametrize("count", [1, 5])
def test_outputs_agree_with_torch(exported: dict[tuple[str, str], Exported], net: str, count: int) -> None:
    file = exported[net, "onnxruntime"]
    with torch.no_grad():
        expected = file.model(images(count)).numpy()
    found = file.session(images(count).numpy())
    assert found.shape == (count, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_file_is_one_part(exported: dict[tuple[str, str], Exported]) -> None:
    file = exported["cnn", "onnxruntime"]
    assert [part.name for part in file.parts] == ["model.onnx"]
    assert file.path.is_file()


def test_the_file_says_what_it_is(exported: dict[tuple[str, str], Exported]) -> None:
    assert OnnxRuntime().read_card(exported["cnn", "onnxruntime"].path) == CARD


def test_names_of_any_alphabet_survive_in_the_card(tmp_path: Path) -> None:
    from dataclasses import replace

    card = replace(CARD, classes=("Größe", "信号", 'say "stop", \\ please'))
    OnnxRuntime().export(cnn(), images(1), tmp_path / "m.onnx", card, {})
    assert OnnxRuntime().read_card(tmp_path / "m.onnx") == card


def test_a_file_of_another_hand_is_told_by_its_missing_card(
    tmp_path: Path, exported: dict[tuple[str, str], Exported]
) -> None:
    model = onnx.load(str(exported["cnn", "onnxruntime"].path))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(InputError, match="does not say its classes, image_shape, mean, std, identity"):
        OnnxRuntime().read_card(tmp_path / "foreign.onnx")


@pytest.mark.parametrize("content", [b"", b"I am no network"], ids=["empty", "text"])
def test_a_file_of_something_else_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for reading in (OnnxRuntime().load, OnnxRuntime().read_card):
        with pytest.raises(InputError, match="cannot be loaded by ONNX Runtime") as caught:
            reading(path)
        assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded by ONNX Runtime") as caught:
        OnnxRuntime().load(tmp_path / "nowhere.onnx")
    assert "nowhere.onnx" in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path, exported: dict[tuple[str, str], Exported]) -> None:
    content = exported["cnn", "onnxruntime"].path.read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be loaded by ONNX Runtime"):
        OnnxRuntime().load(tmp_path / "m.onnx")


def test_precision_is_that_of_the_file() -> None:
    assert (OnnxRuntime().precision(False), OnnxRuntime().precision(True)) == ("float32", "int8")


def test_an_int8_file_is_less_than_four_tenths_of_the_float_one(tmp_path: Path, quantized: Quantized) -> None:
    (tmp_path / "float").mkdir()
    plain = export(quantized.plain, OnnxRuntime(), tmp_path / "float")
    integer = export(quantized.lowered, OnnxRuntime(), tmp_path)
    assert integer.size_bytes < 0.4 * plain.size_bytes


def test_an_int8_file_classifies_as_the_fake_quantized_network(tmp_path: Path, quantized: Quantized) -> None:
    """Fake quantization computes in floats, so an activation may round the other way: one step in 255, no more."""
    integer = export(quantized.lowered, OnnxRuntime(), tmp_path)
    with torch.no_grad():
        hooked, lowered, plain = (net(images(300)) for net in (quantized.hooked, quantized.lowered, quantized.plain))
    found = torch.from_numpy(integer.session(images(300).numpy()))
    assert float((found.argmax(1) == hooked.argmax(1)).float().mean()) >= 0.99
    assert float((found - lowered).abs().max()) < 0.05 * float(plain.std())
    assert float((found - plain).abs().max()) > 0  # it was quantized


def test_an_int8_network_classifies_nearly_as_the_float_one(quantized: Quantized) -> None:
    with torch.no_grad():
        lowered, plain = quantized.lowered(images(300)), quantized.plain(images(300))
    assert float((lowered.argmax(1) == plain.argmax(1)).float().mean()) >= 0.95
