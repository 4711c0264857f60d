"""Weights as ONNX files store them: integers of 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from src.deploy.onnx_export import OPSET, export_onnx
from src.deploy.onnx_integers import store_integer_weights
from src.primitives.quantizers import Symmetric
from tests.exported import CARD, Quantized, images


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}


def quantizing(weight: np.ndarray, scale: np.ndarray, axis: int) -> onnx.ModelProto:
    """``image @ dequantize(quantize(weight))``."""
    zero_point = np.zeros(scale.shape, np.int8)
    stored = {"weight": weight, "scale": scale, "zero_point": zero_point}
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("QuantizeLinear", ["weight", "scale", "zero_point"], ["steps"], axis=axis),
                helper.make_node("DequantizeLinear", ["steps", "scale", "zero_point"], ["again"], axis=axis),
                helper.make_node("MatMul", ["image", "again"], ["logits"]),
            ],
            "net",
            [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, weight.shape[0]])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, weight.shape[1]])],
            [numpy_helper.from_array(array, name) for name, array in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=7,
    )


@pytest.mark.parametrize(
    ("axis", "scale", "steps"),
    [
        (0, [0.5, 0.25], [[2, -3], [1, 8]]),
        (1, [0.5, 0.25], [[2, -6], [0, 8]]),
    ],
)
def test_four_weights_become_the_integers_computed_by_hand(
    axis: int, scale: list[float], steps: list[list[int]]
) -> None:
    """1, -1.5, 0.25 and 2 over their scales; a half is rounded to the even number, as ONNX says."""
    model = quantizing(np.array([[1.0, -1.5], [0.25, 2.0]], np.float32), np.array(scale, np.float32), axis)
    store_integer_weights(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert sorted(stored) == ["scale", "steps", "zero_point"]
    assert stored["steps"].dtype == np.int8
    assert stored["steps"].tolist() == steps
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "MatMul"]


def test_weights_outside_the_range_are_clipped() -> None:
    model = quantizing(np.array([[1000.0, -1000.0]], np.float32), np.array([1.0, 1.0], np.float32), 1)
    store_integer_weights(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert stored["steps"].tolist() == [[127, -128]]


def test_storing_integers_changes_no_output() -> None:
    import onnxruntime

    generator = np.random.default_rng(0)
    weight = generator.normal(size=(16, 8)).astype(np.float32)
    model = quantizing(weight, np.full(8, 0.02, np.float32), 1)
    image = {"image": generator.normal(size=(1, 16)).astype(np.float32)}
    results = []
    for _ in range(2):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(None, image)[0])
        store_integer_weights(model)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_the_weights_of_an_int8_file_are_int8(tmp_path: Path, quantized: Quantized) -> None:
    export_onnx(quantized.lowered, images(1), tmp_path / "m.onnx", CARD, {})
    large = [array for array in initializers(tmp_path / "m.onnx").values() if array.ndim >= 2]
    # a dense layer's lies as an integer product reads it
    shapes = [
        tuple(weight.shape) if weight.dim() > 2 else tuple(weight.T.shape)
        for weight in quantized.plain.parameters()
        if weight.dim() >= 2
    ]
    assert sorted(array.shape for array in large) == sorted(shapes)
    assert {array.dtype for array in large} == {np.dtype(np.int8)}


def test_stored_integers_are_the_fake_quantized_weights(tmp_path: Path, quantized: Quantized) -> None:
    """Integer times scale gives back each weight to half a step, and each output channel uses its whole range."""
    export_onnx(quantized.lowered, images(1), tmp_path / "m.onnx", CARD, {})
    model = onnx.load(str(tmp_path / "m.onnx"))
    arrays = initializers(tmp_path / "m.onnx")
    (kernel,) = [name for name, array in arrays.items() if array.shape == (16, 8, 3, 3)]
    (node,) = [node for node in model.graph.node if node.input[0] == kernel]
    scale = arrays[node.input[1]][:, None, None, None]
    weight = quantized.hooked.features[4].weight.detach().numpy()
    assert np.abs(arrays[kernel] * scale - weight).max() <= scale.max() / 2 + 1e-7
    assert np.abs(arrays[kernel].astype(int)).max((1, 2, 3)).min() >= 126


@pytest.mark.parametrize("per_channel", [True, False])
def test_stored_weights_are_integers_however_the_exporter_turns_them(tmp_path: Path, per_channel: bool) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.mix = nn.Linear(8, 6)
            self.out = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.mix(x.flatten(1, 2))).mean(1))

    model = Tokens().eval()
    grids = {
        name: Symmetric(per_channel=per_channel, candidates=5)(p, 4)
        for name, p in model.named_parameters()
        if p.dim() > 1
    }
    with torch.no_grad():
        for name, grid in grids.items():
            model.get_parameter(name).copy_(grid.quantize(model.get_parameter(name)))
    stored = {name: grid.stored(model.get_parameter(name)) for name, grid in grids.items()}
    x = torch.randn(1, 3, 8, 8)
    export_onnx(model, x, tmp_path / "m.onnx", CARD, stored)
    kinds = [
        tensor.data_type for tensor in onnx.load(str(tmp_path / "m.onnx")).graph.initializer if len(tensor.dims) == 2
    ]
    assert kinds == [onnx.TensorProto.INT8] * 2
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"image": x.numpy()})[0], model(x).detach().numpy(), atol=1e-3)
