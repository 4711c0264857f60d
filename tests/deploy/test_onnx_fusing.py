"""Quantized graphs rewritten for ONNX Runtime: the same numbers, computed in integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from onnx import helper, numpy_helper
from torch import Tensor, nn

from src.contracts import Compressed, Context
from src.contracts.output_quantizers import without_output_quantizers
from src.deploy.onnx_export import OPSET, export_onnx
from src.deploy.onnx_fusing import (
    carry_quantization,
    clamp_integers,
    drop_clamps,
    use_integer_products,
    use_unsigned_activations,
)
from tests.exported import CARD, CONF, Quantized, images, settled


def model_of(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], shape: list[int]) -> onnx.ModelProto:
    """``image`` of ``shape`` to ``logits``."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in stored.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=7,
    )


def logits_of(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    """Outputs of the graph as it is written, since optimizations could hide a change."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"image": image})[0]
    return result


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def clamped(kind: str, scale: float, zero_point: np.ndarray, high: float = 6.0) -> onnx.ModelProto:
    inputs = ["image"] if kind == "Relu" else ["image", "low", "high"]
    return model_of(
        [
            helper.make_node(kind, inputs, ["cut"]),
            helper.make_node("QuantizeLinear", ["cut", "scale", "zero"], ["steps"]),
            helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["logits"]),
        ],
        {
            "scale": np.array(scale, np.float32),
            "zero": zero_point,
            "low": np.array(0, np.float32),
            "high": np.array(high, np.float32),
        },
        [1, 64],
    )


@pytest.mark.parametrize(
    ("kind", "scale", "zero_point", "dropped"),
    [
        ("Relu", 0.1, np.uint8(0), True),
        ("Clip", 6 / 255, np.uint8(0), True),
        ("Clip", 5 / 255, np.uint8(0), True),  # the quantization saturates at 5
        ("Clip", 8 / 255, np.uint8(0), False),  # it would let 8 through
        ("Relu", 0.1, np.uint8(128), False),  # it would let negative numbers through
        ("Relu", 0.1, np.int8(0), False),
    ],
)
def test_a_clamp_is_removed_only_if_the_quantization_saturates_at_the_same_limits(
    kind: str, scale: float, zero_point: np.generic, dropped: bool
) -> None:
    model = clamped(kind, scale, np.array(zero_point))
    image = np.linspace(-10, 30, 64, dtype=np.float32)[None]
    before = logits_of(model, image)
    drop_clamps(model, ("Clip", "Relu"))
    assert (kind not in operators(model)) == dropped
    np.testing.assert_array_equal(logits_of(model, image), before)


def test_a_clamp_that_others_read_stays() -> None:
    model = clamped("Relu", 0.1, np.array(0, np.uint8))
    model.graph.node[-1].output[0] = "again"
    model.graph.node.append(helper.make_node("Add", ["again", "cut"], ["logits"]))
    drop_clamps(model, ("Relu",))
    assert "Relu" in operators(model)


def test_signed_activations_become_unsigned_ones_of_the_same_values() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["steps"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["logits"]),
    ]
    model = model_of(nodes, {"scale": np.array(0.5, np.float32), "zero": np.array(0, np.int8)}, [1, 5])
    image = np.array([[-100, -1.2, 0, 0.25, 100]], np.float32)
    before = logits_of(model, image)
    use_unsigned_activations(model)
    zero_points = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type != onnx.TensorProto.FLOAT]
    assert [(array.dtype, int(array)) for array in zero_points] == [(np.dtype(np.uint8), 128)]
    assert before.tolist() == [[-64, -1, 0, 0, 63.5]]
    np.testing.assert_array_equal(logits_of(model, image), before)


@pytest.mark.parametrize(("fill", "quantized"), [(0.0, 2), (9.0, 1)])
def test_a_fill_beyond_the_grid_is_not_quantized(fill: float, quantized: int) -> None:
    stored = {
        "scale": np.array(0.01, np.float32),
        "zero": np.array(0, np.int8),
        "pads": np.array([0, 1, 0, 1]),
        "fill": np.array(fill, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["floats"]),
        helper.make_node("Pad", ["floats", "pads", "fill"], ["logits"]),
    ]
    model, image = model_of(nodes, stored, [1, 4]), np.full((1, 4), 0.5, np.float32)
    before = logits_of(model, image)
    carry_quantization(model)
    assert Counter(node.op_type for node in model.graph.node)["QuantizeLinear"] == quantized
    assert np.array_equal(logits_of(model, image), before)


def test_an_integer_product_gives_what_the_dequantized_one_gives() -> None:
    generator = np.random.default_rng(0)
    stored = {
        "scale": np.array(0.1, np.float32),
        "zero": np.array(128, np.uint8),
        "weight": generator.integers(-128, 128, (4, 6)).astype(np.int8),
        "weight_scale": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "weight_zero": np.zeros(4, np.int8),
        "bias": np.array([1, -2, 3, -4], np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["steps"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["data"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["floats"], axis=0),
        helper.make_node("Gemm", ["data", "floats", "bias"], ["logits"], transB=1),
    ]
    model = model_of(nodes, stored, [3, 6])
    image = generator.normal(size=(3, 6)).astype(np.float32)
    before = logits_of(model, image)
    use_integer_products(model)
    assert operators(model) == ["QuantizeLinear", "MatMulInteger", "Cast", "Mul", "Add"]
    np.testing.assert_allclose(logits_of(model, image), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["Relu", "Clip"])
def test_a_clamp_before_a_signed_grid_cuts_off_integers_and_outputs_do_not_change(kind: str) -> None:
    model = clamped(kind, 0.07, np.array(100, np.uint8), high=3.0)
    image = np.linspace(-9, 9, 64, dtype=np.float32)[None]
    before = logits_of(model, image)
    clamp_integers(model)
    assert operators(model) == ["QuantizeLinear", "Clip", "DequantizeLinear"]
    np.testing.assert_array_equal(logits_of(model, image), before)
    assert before.min() == 0 < before.std()


# Whole networks -----------------------------------------------------------------------------------


class Inverted(nn.Module):
    """Two inverted residuals with ReLU6, as MobileNetV2 has them, the second added to its input."""

    def __init__(self) -> None:
        super().__init__()

        def block(channels: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(channels, 16, 1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU6(),
                nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU6(),
                nn.Conv2d(16, 8, 1, bias=False),
                nn.BatchNorm2d(8),
            )

        self.first, self.second, self.fc = block(3), block(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.fc((x + self.second(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def inverted() -> nn.Module:
    """Two inverted residuals, quantized, with torch's quantizers."""
    torch.manual_seed(0)
    calibration = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in images(64).split(32)]
    method = instantiate(OmegaConf.load(CONF))
    context = Context(calibration, None, images(1), 0, None)  # type: ignore[arg-type]
    hooked = Compressed.of(method.compress(settled(Inverted()), context)).model
    lowered: nn.Module = method.lower(hooked, images(1)).model
    return lowered


def computed(path: Path, folder: Path) -> Counter[str]:
    """The operators of a file after ONNX Runtime optimized it, and how many."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(operators(onnx.load(str(folder / "optimized.onnx"))))


def test_inverted_residuals_are_computed_in_integers_throughout(tmp_path: Path, inverted: nn.Module) -> None:
    with without_output_quantizers(inverted, ("product",)):
        export_onnx(inverted, images(1), tmp_path / "m.onnx", CARD, {})
    found = computed(tmp_path / "m.onnx", tmp_path)
    assert found["QLinearConv"] == 6
    assert found["QLinearAdd"] == 1
    assert not {"Conv", "FusedConv", "Clip", "Gemm"} & set(found)
    assert found["DequantizeLinear"] <= 1


def test_inverted_residuals_predict_as_the_fake_quantized_ones(tmp_path: Path, inverted: nn.Module) -> None:
    export_onnx(inverted, images(1), tmp_path / "m.onnx", CARD, {})
    with torch.no_grad():
        expected = inverted(images(200)).numpy()
    found = logits_of(onnx.load(str(tmp_path / "m.onnx")), images(200).numpy())
    assert np.abs(found - expected).mean() < 0.02 * expected.std()
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.98


def test_a_plain_network_is_computed_in_integers_throughout(tmp_path: Path, quantized: Quantized) -> None:
    with without_output_quantizers(quantized.lowered, ("product",)):
        export_onnx(quantized.lowered, images(1), tmp_path / "m.onnx", CARD, {})
    found = computed(tmp_path / "m.onnx", tmp_path)
    assert (found["QLinearConv"], found["MatMulInteger"]) == (2, 2)
    assert not {"Conv", "Gemm", "MatMul", "DequantizeLinear"} & set(found)
