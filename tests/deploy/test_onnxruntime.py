"""The target ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from src.contracts import InputError
from src.contracts.output_quantizers import without_output_quantizers
from src.deploy.onnxruntime import OnnxRuntime
from src.metrics.graph import macs, parameters, peak_activation_bytes
from tests.exported import CARD, Exported, Quantized, cnn, export, images
from tests.processor import exact_logits

CPU = OnnxRuntime(provider="CPUExecutionProvider", stored="float32")
HALF = OnnxRuntime(provider="CPUExecutionProvider", stored="float16")


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
    assert CPU.read_card(exported["cnn", "onnxruntime"].path) == CARD


def test_names_of_any_alphabet_survive_in_the_card(tmp_path: Path) -> None:
    from dataclasses import replace

    card = replace(CARD, classes=("Größe", "信号", 'say "stop", \\ please'))
    CPU.export(cnn(), images(1), tmp_path / "m.onnx", card, {})
    assert CPU.read_card(tmp_path / "m.onnx") == card


def test_a_file_from_elsewhere_is_recognized_by_its_missing_card(
    tmp_path: Path, exported: dict[tuple[str, str], Exported]
) -> None:
    model = onnx.load(str(exported["cnn", "onnxruntime"].path))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(InputError, match="does not say its classes, image_shape, mean, std, identity"):
        CPU.read_card(tmp_path / "foreign.onnx")


@pytest.mark.parametrize("content", [b"", b"I am no network"], ids=["empty", "text"])
def test_a_file_of_something_else_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for reading in (CPU.load, CPU.read_card):
        with pytest.raises(InputError, match="cannot be loaded by ONNX Runtime") as caught:
            reading(path)
        assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded by ONNX Runtime") as caught:
        CPU.load(tmp_path / "nowhere.onnx")
    assert "nowhere.onnx" in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path, exported: dict[tuple[str, str], Exported]) -> None:
    content = exported["cnn", "onnxruntime"].path.read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be loaded by ONNX Runtime"):
        CPU.load(tmp_path / "m.onnx")


def test_precision_is_that_of_the_file() -> None:
    assert (str(CPU.precision(False)), str(CPU.precision(True))) == ("float32", "int8")
    assert (str(HALF.precision(False)), str(HALF.precision(True))) == (
        "float32, float16 stored",
        "int8, float16 stored",
    )


def test_a_provider_other_than_the_cpu_is_named() -> None:
    cuda = OnnxRuntime(provider="CUDAExecutionProvider", stored="float32")
    assert [str(target.runtime) for target in (CPU, cuda)] == ["onnxruntime", "onnxruntime with CUDAExecutionProvider"]
    assert not CPU.stand_in
    assert not cuda.stand_in


def test_an_int8_file_is_less_than_four_tenths_of_the_float_one(tmp_path: Path, quantized: Quantized) -> None:
    (tmp_path / "float").mkdir()
    plain = export(quantized.plain, CPU, tmp_path / "float")
    integer = export(quantized.lowered, CPU, tmp_path)
    assert integer.size_bytes < 0.4 * plain.size_bytes


def test_an_int8_file_classifies_as_the_fake_quantized_network(tmp_path: Path, quantized: Quantized) -> None:
    """Fake quantization computes in floats, so an activation may round the other way: one step in 255, no more."""
    integer = export(quantized.lowered, CPU, tmp_path)
    with torch.no_grad(), without_output_quantizers(quantized.lowered, CPU.unquantized_outputs):
        hooked, lowered, plain = (net(images(300)) for net in (quantized.hooked, quantized.lowered, quantized.plain))
    exact = torch.from_numpy(exact_logits(integer.path, images(300).numpy()))
    assert float((exact.argmax(1) == hooked.argmax(1)).float().mean()) >= 0.99
    assert float((exact - lowered).abs().max()) < 0.05 * float(plain.std())
    assert float((exact - plain).abs().max()) > 0  # it was quantized
    found = torch.from_numpy(integer.session(images(300).numpy()))
    assert torch.allclose(found, exact, atol=1e-3 * float(plain.std()))
    assert float((found.argmax(1) == hooked.argmax(1)).float().mean()) >= 0.99


def test_an_int8_network_classifies_nearly_as_the_float_one(quantized: Quantized) -> None:
    with torch.no_grad():
        lowered, plain = quantized.lowered(images(300)), quantized.plain(images(300))
    assert float((lowered.argmax(1) == plain.argmax(1)).float().mean()) >= 0.95


# Options ------------------------------------------------------------------------------------------


def test_a_float16_file_is_half_as_large_and_predicts_as_the_float32_one(tmp_path: Path, quantized: Quantized) -> None:
    (tmp_path / "half").mkdir()
    plain, half = export(quantized.plain, CPU, tmp_path), export(quantized.plain, HALF, tmp_path / "half")
    assert 0.49 * plain.size_bytes < half.size_bytes < 0.52 * plain.size_bytes
    found, expected = (file.session(images(100).numpy()) for file in (half, plain))
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.01 * expected.std()
    for count in (parameters, macs, peak_activation_bytes):
        assert count(half.graph) == count(plain.graph)


def test_weights_beyond_float16_stay_float32(tmp_path: Path) -> None:
    model = cnn()
    model.classifier[2].weight.data[0, 0] = 1e6
    file = export(model, HALF, tmp_path)
    with torch.no_grad():
        np.testing.assert_allclose(file.session(images(3).numpy()), model(images(3)).numpy(), rtol=2e-3)


def test_a_provider_that_is_not_installed_is_named_with_those_that_are(
    exported: dict[tuple[str, str], Exported],
) -> None:
    target = OnnxRuntime(provider="ROCMExecutionProvider", stored="float32")
    with pytest.raises(InputError, match=r"has no ROCMExecutionProvider; it has .*CPUExecutionProvider"):
        target.load(exported["cnn", "onnxruntime"].path)


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_files_for_other_providers_keep_their_quantizers(tmp_path: Path, quantized: Quantized, provider: str) -> None:
    file = export(quantized.lowered, OnnxRuntime(provider=provider, stored="float32"), tmp_path)
    operators = {node.op_type for node in onnx.load(str(file.path)).graph.node}
    assert {"Gemm", "QuantizeLinear", "DequantizeLinear"} <= operators
    assert "MatMulInteger" not in operators


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"provider": "CPUExecutionProvider", "stored": "int4"}, "float32, float16"),
        ({"provider": "TensorrtExecutionProvider", "stored": "float16"}, "takes no float16"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OnnxRuntime(**settings)


def test_scales_of_integer_products_stay_floats_and_are_no_parameters(tmp_path: Path, quantized: Quantized) -> None:
    (tmp_path / "half").mkdir()
    full, half = export(quantized.lowered, CPU, tmp_path), export(quantized.lowered, HALF, tmp_path / "half")
    assert parameters(half.graph) == parameters(full.graph)
    graph = onnx.load(str(half.path)).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    products = [node.output[0] for node in graph.node if node.op_type == "MatMulInteger"]
    floats = [node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in products]
    factors = [node.input[1] for node in graph.node if node.op_type == "Mul" and node.input[0] in floats]
    assert len(factors) == len(products) == 2
    assert {stored[name].data_type for name in factors} == {onnx.TensorProto.FLOAT}


def test_operators_are_timed_longest_first(exported: dict[tuple[str, str], Exported]) -> None:
    timed = CPU.operators(exported["cnn", "onnxruntime"].path, images(1).numpy(), 1)
    times = [ms for _, _, ms in timed]
    assert times == sorted(times, reverse=True)
    assert min(times) >= 0
    assert 0 < max(times) < 1000
    for layer in ("/classifier/classifier.2/Gemm", "/classifier/classifier.5/Gemm"):
        assert any(layer in name for name, _, _ in timed)
    assert any("Conv" in operator for _, operator, _ in timed)


def test_a_file_is_run_without_torch(exported: dict[tuple[str, str], Exported]) -> None:
    program = f"""
import sys
import numpy as np
from pathlib import Path
from src.deploy.onnxruntime import OnnxRuntime
target = OnnxRuntime(provider="CPUExecutionProvider", stored="float32")
path = Path({str(exported["cnn", "onnxruntime"].path)!r})
print(target.load(path)(np.zeros((2, 3, 8, 8), np.float32)).shape, target.read_card(path).classes)
assert len(target.graph(path).nodes) > 3
assert "torch" not in sys.modules, "torch was imported"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 3) ('a', 'b', 'c')"
