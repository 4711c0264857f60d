"""The target OpenVINO."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from src.contracts import InputError, StoredWeight
from src.deploy.openvino import OpenVino
from src.metrics.graph import macs, nonzero_parameters, parameters, peak_activation_bytes
from tests.exported import (
    CARD,
    MACS,
    PARAMETERS,
    PEAKS,
    Exported,
    Quantized,
    Reading,
    cnn,
    export,
    halved,
    images,
    shuffled,
)
from tests.processor import SATURATES

FLOAT = OpenVino(stored="float32", inference="float32")


@pytest.mark.parametrize("net", ["cnn", "residual"])
@pytest.mark.parametrize("count", [1, 5])
def test_outputs_agree_with_torch(exported: dict[tuple[str, str], Exported], net: str, count: int) -> None:
    file = exported[net, "openvino"]
    with torch.no_grad():
        expected = file.model(images(count)).numpy()
    found = file.session(images(count).numpy())
    assert found.shape == (count, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_result_is_not_overwritten_by_the_next(exported: dict[tuple[str, str], Exported]) -> None:
    session = exported["cnn", "openvino"].session
    first = session(images(1).numpy())
    kept = first.copy()
    session(-images(1).numpy())
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("net", ["cnn", "residual"])
def test_parameters_macs_and_peak_are_those_counted_by_hand_and_those_of_the_onnx_file(
    exported: dict[tuple[str, str], Exported], net: str
) -> None:
    here, there = exported[net, "openvino"].graph, exported[net, "onnxruntime"].graph
    assert parameters(here) == parameters(there) == PARAMETERS[net]
    assert nonzero_parameters(here) == nonzero_parameters(there) == PARAMETERS[net]
    assert macs(here) == macs(there) == MACS[net]
    assert peak_activation_bytes(here) == peak_activation_bytes(there) == PEAKS[net]


@pytest.mark.parametrize("between", [shuffled, halved], ids=["channel_shuffle", "chunks"])
def test_numbers_that_only_make_shapes_are_no_parameters(tmp_path: Path, between: object) -> None:
    graph = export(Reading(between, 4).eval(), FLOAT, tmp_path).graph
    assert parameters(graph) == 112 + 4 * 2 + 2
    assert macs(graph) == 108 * 64 + 8


def test_the_file_is_two_parts(exported: dict[tuple[str, str], Exported]) -> None:
    file = exported["cnn", "openvino"]
    assert [part.name for part in file.parts] == ["model.xml", "model.bin"]
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["model.bin", "model.xml"]


def test_exporting_again_replaces_both_parts(tmp_path: Path) -> None:
    export(cnn(), FLOAT, tmp_path)
    other = cnn()
    other.classifier[5].bias.data += 1
    file = export(other, FLOAT, tmp_path)
    with torch.no_grad():
        np.testing.assert_allclose(file.session(images(2).numpy()), other(images(2)).numpy(), rtol=1e-4, atol=1e-5)


def test_its_text_holds_no_shape_that_is_computed_again_and_each_limit_once(
    tmp_path: Path, quantized: Quantized
) -> None:
    text = export(quantized.lowered, FLOAT, tmp_path).path.read_text()
    assert "<dim>" not in text
    ranges = {}
    for edge in re.findall(r'<edge from-layer="(\d+)" from-port="\d+" to-layer="(\d+)" to-port="(\d+)"', text):
        ranges[edge[1], edge[2]] = edge[0]
    quantizers = re.findall(r'<layer id="(\d+)" name="[^"]*" type="FakeQuantize"', text)
    assert len(quantizers) >= 3
    for layer in quantizers:
        assert ranges[layer, "1"] == ranges[layer, "3"]
        assert ranges[layer, "2"] == ranges[layer, "4"]


def test_a_dense_layer_of_stored_integers_computes_in_floats(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 256)).eval()
    integers = torch.randint(-128, 128, (256, 192), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    stored = StoredWeight(integers, 8, torch.tensor(0.01), torch.tensor(0, dtype=torch.int32))
    model[1].weight.data = integers * 0.01
    (path, _) = FLOAT.export(model, images(1), tmp_path / "m.xml", CARD, {"1.weight": stored})
    with torch.no_grad():
        expected = model(images(9)).numpy()
    np.testing.assert_allclose(FLOAT.load(path)(images(9).numpy()), expected, atol=1e-3)


def test_the_file_says_what_it_is(exported: dict[tuple[str, str], Exported]) -> None:
    assert FLOAT.read_card(exported["cnn", "openvino"].path) == CARD


def test_names_of_any_alphabet_survive_in_the_card(tmp_path: Path) -> None:
    from dataclasses import replace

    card = replace(CARD, classes=("Größe", "信号", 'say "stop", <now> & \\ please'))
    FLOAT.export(cnn(), images(1), tmp_path / "m.xml", card, {})
    assert FLOAT.read_card(tmp_path / "m.xml") == card


def test_a_file_from_elsewhere_is_recognized_by_its_missing_card(
    tmp_path: Path, exported: dict[tuple[str, str], Exported]
) -> None:
    import openvino

    model = openvino.convert_model(str(exported["cnn", "onnxruntime"].path))
    openvino.save_model(model, str(tmp_path / "foreign.xml"))
    with pytest.raises(InputError, match="does not say its classes"):
        FLOAT.read_card(tmp_path / "foreign.xml")


@pytest.mark.parametrize("content", [b"", b"I am no network", b"<net/>"], ids=["empty", "text", "xml"])
def test_a_file_of_something_else_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.xml"
    path.write_bytes(content)
    for reading in (FLOAT.load, FLOAT.graph, FLOAT.read_card):
        with pytest.raises(InputError, match="cannot be loaded by OpenVINO") as caught:
            reading(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("missing", ["model.xml", "model.bin"])
def test_a_missing_part_is_refused(tmp_path: Path, exported: dict[tuple[str, str], Exported], missing: str) -> None:
    for part in exported["cnn", "openvino"].parts:
        if part.name != missing:
            (tmp_path / part.name).write_bytes(part.read_bytes())
    with pytest.raises(InputError, match="cannot be loaded by OpenVINO"):
        FLOAT.load(tmp_path / "model.xml")


def test_half_precision_halves_the_weights_and_counts_them_the_same(tmp_path: Path, quantized: Quantized) -> None:
    (tmp_path / "half").mkdir()
    full = export(quantized.plain, FLOAT, tmp_path)
    half = export(quantized.plain, OpenVino(stored="float16", inference="float32"), tmp_path / "half")
    assert half.parts[1].stat().st_size < 0.55 * full.parts[1].stat().st_size
    assert parameters(half.graph) == parameters(full.graph)
    assert macs(half.graph) == macs(full.graph)
    assert peak_activation_bytes(half.graph) == peak_activation_bytes(full.graph)
    with torch.no_grad():
        expected = quantized.plain(images(5)).numpy()
    np.testing.assert_allclose(half.session(images(5).numpy()), expected, atol=0.01)


@pytest.mark.parametrize(
    ("stored", "inference", "integer", "said"),
    [
        ("float32", "float32", False, "float32"),
        ("float16", "float32", False, "float32, float16 stored"),
        ("float32", "bf16", False, "bf16"),
        ("float32", "bf16", True, "int8 and bf16"),
        ("float16", "float32", True, "int8, float16 stored"),
    ],
)
def test_precision_says_arithmetic_and_storage(stored: str, inference: str, integer: bool, said: str) -> None:
    assert str(OpenVino(stored=stored, inference=inference).precision(integer)) == said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stored": "int8", "inference": "float32"}, "stored must be one of float32, float16, and is int8"),
        ({"stored": "float32", "inference": "fp8"}, "inference must be one of float32, bf16, and is fp8"),
    ],
)
def test_another_precision_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenVino(**settings)


def test_an_int8_file_is_less_than_four_tenths_of_the_float_one(tmp_path: Path, quantized: Quantized) -> None:
    (tmp_path / "float").mkdir()
    plain = export(quantized.plain, FLOAT, tmp_path / "float")
    integer = export(quantized.lowered, FLOAT, tmp_path)
    assert integer.size_bytes < 0.4 * plain.size_bytes
    assert parameters(integer.graph) == parameters(plain.graph)
    assert macs(integer.graph) == macs(plain.graph)
    assert peak_activation_bytes(integer.graph) == 4 * 192 + 512  # the image in floats, 8x8x8 in bytes


def test_an_int8_file_classifies_as_the_fake_quantized_network(tmp_path: Path, quantized: Quantized) -> None:
    integer = export(quantized.lowered, FLOAT, tmp_path)
    with torch.no_grad():
        lowered, plain = quantized.lowered(images(300)), quantized.plain(images(300))
    found = torch.from_numpy(integer.session(images(300).numpy()))
    assert float((found.argmax(1) == lowered.argmax(1)).float().mean()) >= (0.9 if SATURATES else 0.99)
    assert float((found - lowered).abs().max()) < (1.0 if SATURATES else 0.1) * float(plain.std())
