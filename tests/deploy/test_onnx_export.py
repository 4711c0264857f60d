"""ONNX files as they are written."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from src.contracts import InputError
from src.deploy.onnx_export import OPSET, export_onnx
from tests.exported import CARD, Exported, cnn, images


def test_batch_normalization_is_folded_into_the_file(exported: dict[tuple[str, str], Exported]) -> None:
    for net in ("cnn", "residual"):
        operations = {node.op_type for node in onnx.load(str(exported[net, "onnxruntime"].path)).graph.node}
        assert "Conv" in operations
        assert "BatchNormalization" not in operations


def test_the_file_has_the_opset_that_old_runtimes_read(exported: dict[tuple[str, str], Exported]) -> None:
    model = onnx.load(str(exported["cnn", "onnxruntime"].path))
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert model.ir_version <= 7  # onnxruntime 1.10's


def test_the_batch_size_is_free(exported: dict[tuple[str, str], Exported]) -> None:
    graph = onnx.load(str(exported["cnn", "onnxruntime"].path)).graph
    (image,), (logits,) = graph.input, graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == ["batch", 3, 8, 8]
    assert [dim.dim_param or dim.dim_value for dim in logits.type.tensor_type.shape.dim] == ["batch", 3]


def test_only_the_whole_file_is_left(tmp_path: Path) -> None:
    export_onnx(cnn(), images(1), tmp_path / "m.onnx", CARD, {})
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_network_that_cannot_be_written_leaves_the_file_before_it(tmp_path: Path) -> None:
    class Fourier(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft2(x).abs().mean((2, 3))

    export_onnx(cnn(), images(1), tmp_path / "m.onnx", CARD, {})
    before = (tmp_path / "m.onnx").read_bytes()
    with pytest.raises(InputError, match="cannot be written as an ONNX file.*fft"):
        export_onnx(Fourier(), images(1), tmp_path / "m.onnx", CARD, {})
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        export_onnx(cnn(), images(1), tmp_path / name, CARD, {})
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


class Foreign(torch.autograd.Function):
    """Its operator is of another library's domain in the file, as a quantizer that was not lowered."""

    @staticmethod
    def forward(_: object, values: Tensor) -> Tensor:
        return values.round()

    @staticmethod
    def symbolic(graph: torch._C.Graph, values: torch._C.Value) -> object:
        return graph.op("org.elsewhere::FakeQuantize", values).setType(values.type())  # type: ignore[attr-defined]


class Rounds(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return Foreign.apply(values)  # type: ignore[no-any-return]


def test_a_file_with_another_librarys_operator_is_refused_by_the_layers_name(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Rounds(), nn.Flatten())
    with pytest.raises(InputError, match=r"org.elsewhere::FakeQuantize of the layer 1 is none of ONNX's"):
        export_onnx(model, images(1), tmp_path / "m.onnx", CARD, {})
    assert not list(tmp_path.iterdir())
