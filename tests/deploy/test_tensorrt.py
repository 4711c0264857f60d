"""The target TensorRT 8.2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from src.contracts import InputError
from src.deploy.onnxruntime import OnnxRuntime
from src.deploy.tensorrt import TensorRt, build
from tests.exported import CARD, Quantized, cnn, export, images, residual

TARGET = TensorRt()


@pytest.fixture(scope="module")
def integer(tmp_path_factory: pytest.TempPathFactory, quantized: Quantized) -> Path:
    """An INT8 file."""
    return export(quantized.lowered, TARGET, tmp_path_factory.mktemp("tensorrt")).path


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}


@pytest.mark.parametrize("make", [cnn, residual])
def test_float_files_pass_the_check_and_give_torchs_logits(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    file = export(make(), TARGET, tmp_path)
    TARGET.check(file.path)
    with torch.no_grad():
        expected = file.model(images(5)).numpy()
    np.testing.assert_allclose(file.session(images(5).numpy()), expected, rtol=1e-4, atol=1e-5)
    assert TARGET.read_card(file.path) == CARD


def test_an_int8_file_has_symmetric_int8_quantizers_and_float_weights(integer: Path) -> None:
    TARGET.check(integer)
    stored = arrays(integer)
    quantizers = [n for n in onnx.load(str(integer)).graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(quantizers) >= 16
    for node in quantizers:
        assert stored[node.input[2]].dtype == np.int8
        assert not stored[node.input[2]].any()
    assert {array.dtype for array in stored.values() if array.ndim >= 2} == {np.dtype(np.float32)}


def test_an_unsigned_scale_grows_by_255_to_127(integer: Path, tmp_path: Path, quantized: Quantized) -> None:
    cpu = OnnxRuntime(provider="CPUExecutionProvider", stored="float32")
    unsigned = export(quantized.lowered, cpu, tmp_path).path

    def second_scale(path: Path) -> float:
        """Scale of the first convolution's output, after a Relu."""
        nodes = [node for node in onnx.load(str(path)).graph.node if node.op_type == "QuantizeLinear"]
        data = [node for node in nodes if node.input[0] not in arrays(path)]
        return float(arrays(path)[data[1].input[1]])

    assert second_scale(integer) == pytest.approx(second_scale(unsigned) * 255 / 127)


def test_an_int8_file_classifies_nearly_as_the_fake_quantized_network(integer: Path, quantized: Quantized) -> None:
    with torch.no_grad():
        expected = quantized.lowered(images(300)).numpy()
    found = TARGET.load(integer)(images(300).numpy())
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.97
    assert np.abs(found - expected).mean() < 0.05 * expected.std()


@pytest.mark.parametrize(("installed", "runtime"), [(True, "tensorrt"), (False, "onnxruntime for tensorrt")])
def test_without_tensorrt_another_runtime_stands_in(
    monkeypatch: pytest.MonkeyPatch, installed: bool, runtime: str
) -> None:
    import onnxruntime

    providers = ["CPUExecutionProvider", *(["TensorrtExecutionProvider"] if installed else [])]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert str(TARGET.runtime) == runtime
    assert TARGET.runtime.intended == "tensorrt"
    assert TARGET.stand_in == (not installed)
    assert (str(TARGET.precision(False)), str(TARGET.precision(True))) == ("float32", "int8")


# What is refused ----------------------------------------------------------------------------------


def changed(path: Path, to: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(to))
    return to


def opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 14


def foreign(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def ir(model: onnx.ModelProto) -> None:
    model.ir_version = 8


def operator(model: onnx.ModelProto) -> None:
    (node,) = [node for node in model.graph.node if node.name == "/classifier/classifier.2/Gemm"]
    node.op_type = "Hardmax"


def initializer_of(model: onnx.ModelProto, place: int, weight: bool) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    """The first quantizer of a weight or an activation, and one of its stored inputs."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    node = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and (n.input[0] in stored) == weight)
    return node, stored[node.input[place]]


def zero_point(model: onnx.ModelProto) -> None:
    _, tensor = initializer_of(model, 2, False)
    tensor.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), tensor.name))


def unsigned(model: onnx.ModelProto) -> None:
    _, tensor = initializer_of(model, 2, False)
    tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.uint8), tensor.name))


def scale_per_channel(model: onnx.ModelProto) -> None:
    _, tensor = initializer_of(model, 1, False)
    tensor.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), tensor.name))


def stored_integers(model: onnx.ModelProto) -> None:
    node, tensor = initializer_of(model, 0, True)
    tensor.CopyFrom(numpy_helper.from_array(np.ones(tuple(tensor.dims), np.int8), node.output[0]))
    model.graph.node.remove(node)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (opset, "up to 13; the file has ai.onnx 14"),
        (foreign, "com.microsoft 1"),
        (ir, "up to IR version 7; the file has 8"),
        (operator, "/classifier/classifier.2/Gemm: it has no operator Hardmax"),
        (zero_point, "before /features/features.0/Conv: its zero point is not 0"),
        (unsigned, "before /features/features.0/Conv: it is quantized to uint8"),
        (scale_per_channel, "before /features/features.0/Conv: an activation has a scale for each channel"),
        (stored_integers, "before /features/features.0/Conv: stored int8 numbers cannot be dequantized"),
    ],
)
def test_what_tensorrt_lacks_is_refused_and_the_layer_named(
    integer: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        TARGET.check(changed(integer, tmp_path / "m.onnx", change))
    assert said in str(caught.value)


def test_files_for_the_processor_are_refused(tmp_path: Path, quantized: Quantized) -> None:
    cpu = OnnxRuntime(provider="CPUExecutionProvider", stored="float32")
    with pytest.raises(InputError, match="TensorRT 8.2 does not take .*/features/features.0/Conv"):
        TARGET.check(export(quantized.lowered, cpu, tmp_path).path)


def test_a_network_that_tensorrt_lacks_an_operator_for_leaves_nothing(tmp_path: Path) -> None:
    class Remainder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.fmod(self.conv(x), 2).mean((2, 3))

    with pytest.raises(InputError, match="TensorRT 8.2 does not take /Mod: it has no operator Mod"):
        export(Remainder().eval(), TARGET, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_something_else_is_no_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"I am no network")
    for reading in (TARGET.check, TARGET.remarks):
        with pytest.raises(InputError, match="no ONNX file"):
            reading(tmp_path / "m.onnx")


# Remarks and engines ------------------------------------------------------------------------------


def test_channels_that_are_no_multiple_of_eight_are_named(tmp_path: Path) -> None:
    (line,) = TARGET.remarks(export(cnn(), TARGET, tmp_path).path)
    assert "/features/features.0/Conv (4), /features/features.4/Conv (6)" in line
    assert "classifier" not in line  # 8, and the classes
    assert TARGET.remarks(export(residual(), TARGET, tmp_path).path) == []


def test_channels_behind_quantizers_are_named(tmp_path: Path, integer: Path) -> None:
    assert TARGET.remarks(integer) == []


@pytest.mark.parametrize("succeeds", [True, False])
def test_trtexec_is_called_with_the_file_and_the_shape(
    integer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, succeeds: bool
) -> None:
    """A shell script in its place writes down its arguments."""
    program = tmp_path / "bin" / "trtexec"
    program.parent.mkdir()
    ending = "exit 0" if succeeds else 'echo "[E] no device"; exit 1'
    program.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/arguments"\n{ending}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    path = tmp_path / "m.onnx"
    path.write_bytes(integer.read_bytes())
    if succeeds:
        assert build(path, (1, 3, 8, 8)) == tmp_path / "m.engine"
        assert path.is_file()
    else:
        with pytest.raises(InputError, match=r"TensorRT cannot build m.onnx: \[E\] no device"):
            build(path, (1, 3, 8, 8))
        assert not path.exists()
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments == [
        f"--onnx={path}",
        f"--saveEngine={tmp_path}/m.engine",
        "--fp16",
        "--shapes=image:1x3x8x8",
        "--int8",
    ]
