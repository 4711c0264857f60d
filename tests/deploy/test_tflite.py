"""The target TFLite."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.contracts import InputError, StoredWeight
from src.deploy.tflite import TfLite
from src.metrics.graph import macs, nonzero_parameters, parameters, peak_activation_bytes
from tests.exported import CARD, MACS, NETS, PARAMETERS, PEAKS, Exported, Quantized, cnn, export, images

pytest.importorskip("litert_torch")
FLOAT = TfLite(stored="float32", dynamic_batch=False)


def tensors(path: Path) -> list[dict[str, Any]]:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_tensor_details()


def weight_types(path: Path) -> Counter[tuple[str, str, str]]:
    """How many convolutions and dense layers there are of each operator, input type and weight type."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    types = {tensor["index"]: np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()}
    return Counter(
        (operator["op_name"], *(types[index] for index in operator["inputs"][:2]))
        for operator in interpreter._get_ops_details()
        if operator["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    return {net: export(make(), FLOAT, tmp_path_factory.mktemp(net)) for net, make in NETS.items()}


@pytest.fixture(scope="module")
def integer(tmp_path_factory: pytest.TempPathFactory, quantized: Quantized) -> Exported:
    return export(quantized.lowered, FLOAT, tmp_path_factory.mktemp("integer"))


@pytest.mark.parametrize("net", ["cnn", "residual"])
@pytest.mark.parametrize("count", [1, 64])
def test_outputs_agree_with_torch(files: dict[str, Exported], net: str, count: int) -> None:
    with torch.no_grad():
        expected = files[net].model(images(count)).numpy()
    found = files[net].session(images(count).numpy())
    assert found.shape == (count, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_result_is_not_overwritten_by_the_next(files: dict[str, Exported]) -> None:
    session = files["cnn"].session
    first = session(images(1).numpy())
    kept = first.copy()
    session(-images(1).numpy())
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("net", ["cnn", "residual"])
def test_parameters_macs_and_peak_are_those_counted_by_hand(files: dict[str, Exported], net: str) -> None:
    graph = files[net].graph
    assert parameters(graph) == nonzero_parameters(graph) == PARAMETERS[net]
    assert macs(graph) == MACS[net]
    assert peak_activation_bytes(graph) == PEAKS[net]


def test_no_tensor_is_left_that_no_operator_uses(files: dict[str, Exported], integer: Exported) -> None:
    for file in (files["cnn"], integer):
        graph = file.graph
        assert set(graph.tensors) == {name for node in graph.nodes for name in (*node.inputs, *node.outputs)}


def test_an_int8_network_runs_in_integers_and_keeps_its_scales(integer: Exported, quantized: Quantized) -> None:
    assert weight_types(integer.path) == {("CONV_2D", "int8", "int8"): 2, ("FULLY_CONNECTED", "int8", "int8"): 2}
    fakes = [m for m in quantized.lowered.modules() if isinstance(m, torch.ao.quantization.FakeQuantize)]
    wanted = {round(float(fake.scale), 7) for fake in fakes if fake.scale.numel() == 1}
    activations = [t for t in tensors(integer.path) if t["dtype"] == np.int8 and len(t["quantization"]) == 2]
    grids = {(round(t["quantization"][0], 7), t["quantization"][1]) for t in activations if t["quantization"][0]}
    assert wanted <= {scale for scale, _ in grids}
    assert {zero_point for scale, zero_point in grids if scale in wanted} == {0, -128}
    assert {
        np.dtype(t["dtype"]).name for t in tensors(integer.path) if len(t["shape"]) == 1 and t["shape"][0] == 1024
    } == {"int32"}


def test_an_int8_file_classifies_as_the_fake_quantized_network(integer: Exported, quantized: Quantized) -> None:
    with torch.no_grad():
        lowered, plain = quantized.lowered(images(300)), quantized.plain(images(300))
    found = torch.from_numpy(integer.session(images(300).numpy()))
    assert float((found.argmax(1) == lowered.argmax(1)).float().mean()) >= 0.99
    assert float((found - lowered).abs().max()) < 0.1 * float(plain.std())


def test_an_int8_file_is_a_quarter_of_the_float_one(tmp_path: Path, integer: Exported, quantized: Quantized) -> None:
    plain = export(quantized.plain, FLOAT, tmp_path)
    assert integer.size_bytes < 0.4 * plain.size_bytes  # of the rest, graph and scales, a small network has much
    assert parameters(integer.graph) == parameters(plain.graph)
    assert macs(integer.graph) == macs(plain.graph)


def test_weights_of_few_bits_are_stored_as_bytes_and_computed_in_floats(tmp_path: Path) -> None:
    model = cnn()
    parts = {}
    generator = torch.Generator().manual_seed(0)
    for name in ("features.0", "classifier.2"):
        layer = model.get_submodule(name)
        integers = torch.randint(0, 16, layer.weight.shape, generator=generator, dtype=torch.int32)
        outputs = len(integers)
        zero_point = torch.arange(outputs, dtype=torch.int32)
        stored = StoredWeight(integers, 4, torch.linspace(0.01, 0.02, outputs), zero_point)
        layer.weight.data = stored.values()
        parts[f"{name}.weight"] = stored
    model.features[1] = nn.Identity()  # nothing is folded into the first one's weights
    FLOAT.export(model, images(1), tmp_path / "m.tflite", CARD, parts)
    with torch.no_grad():
        expected = model(images(16)).numpy()
    np.testing.assert_allclose(FLOAT.load(tmp_path / "m.tflite")(images(16).numpy()), expected, atol=1e-4)
    shapes = [tuple(t["shape"]) for t in tensors(tmp_path / "m.tflite") if t["dtype"] == np.int8]
    assert sorted(shapes) == [(4, 3, 3, 3), (8, 24)]
    assert parameters(FLOAT.graph(tmp_path / "m.tflite")) == PARAMETERS["cnn"]


@pytest.mark.slow
def test_half_precision_halves_the_file_and_counts_the_same(tmp_path: Path, quantized: Quantized) -> None:
    (tmp_path / "half").mkdir()
    full = export(quantized.plain, FLOAT, tmp_path)
    half = export(quantized.plain, TfLite(stored="float16", dynamic_batch=False), tmp_path / "half")
    assert half.size_bytes < 0.6 * full.size_bytes
    assert parameters(half.graph) == parameters(full.graph)
    assert macs(half.graph) == macs(full.graph)
    with torch.no_grad():
        expected = quantized.plain(images(5)).numpy()
    np.testing.assert_allclose(half.session(images(5).numpy()), expected, atol=0.01)


@pytest.mark.slow
def test_the_file_says_what_it_is_in_any_alphabet(tmp_path: Path) -> None:
    card = replace(CARD, classes=("Größe", "信号", 'say "stop", \\ please'))
    FLOAT.export(cnn(), images(1), tmp_path / "m.tflite", card, {})
    assert FLOAT.read_card(tmp_path / "m.tflite") == card
    assert [path.name for path in tmp_path.iterdir()] == ["m.tflite"]


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes(tmp_path: Path, files: dict[str, Exported]) -> None:
    again = export(cnn(), FLOAT, tmp_path)
    assert again.path.read_bytes() == files["cnn"].path.read_bytes()


def test_a_file_from_elsewhere_is_recognized_by_its_missing_card(tmp_path: Path) -> None:
    import litert_torch

    litert_torch.convert(cnn(), (images(1),)).export(str(tmp_path / "foreign.tflite"))
    with pytest.raises(InputError, match="does not say its classes"):
        FLOAT.read_card(tmp_path / "foreign.tflite")


@pytest.mark.parametrize("content", [None, b"", b"I am no network"], ids=["missing", "empty", "text"])
def test_a_file_of_something_else_is_refused_and_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.tflite"
    if content is not None:
        path.write_bytes(content)
    for reading in (FLOAT.load, FLOAT.graph, FLOAT.read_card):
        with pytest.raises(InputError, match="cannot be loaded by TFLite") as caught:
            reading(path)
        assert str(path) in str(caught.value)


def test_an_operator_that_the_format_lacks_is_refused_with_its_layer_and_leaves_nothing(tmp_path: Path) -> None:
    class Fourier(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft2(x).abs().mean((2, 3))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 3, 1), Fourier())

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    with pytest.raises(InputError, match=r"cannot be written as a TFLite file \(layer inner\.1, operator "):
        FLOAT.export(Net(), images(1), tmp_path / "m.tflite", CARD, {})
    assert not list(tmp_path.iterdir())


def test_exporting_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    FLOAT.export(cnn(), images(1), tmp_path / "m.tflite", CARD, {})
    assert capfd.readouterr() == ("", "")


def test_precision_says_arithmetic_and_storage() -> None:
    half = TfLite(stored="float16", dynamic_batch=False)
    precisions = (FLOAT.precision(False), FLOAT.precision(True), half.precision(False), half.precision(True))
    assert list(map(str, precisions)) == ["float32", "int8", "float32, float16 stored", "int8, float16 stored"]


def test_another_storage_is_refused() -> None:
    with pytest.raises(ValueError, match="stored must be one of float32, float16, and is int4"):
        TfLite(stored="int4", dynamic_batch=False)
