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
from src.deploy.onnx_export import OPSET, export_onnx
from src.deploy.onnx_fusing import drop_clamps, level_channels, use_integer_products, use_unsigned_activations
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


@pytest.mark.parametrize("clamp", ["Relu", "Clip"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_depthwise_input_gets_one_scale_and_outputs_do_not_change(clamp: str, per_channel: bool) -> None:
    """Scales of activations are powers of two here, so that no float is rounded and outputs are equal to the bit."""
    generator = np.random.default_rng(1)
    scales = np.array([0.25, 0.5, 1, 2], np.float32) / 128
    kernel_scale = np.array([1, 2, 1, 4] if per_channel else 2, np.float32) / 64
    stored = {
        "w": generator.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8),
        "w_scale": kernel_scale,
        "w_zero": np.zeros(kernel_scale.shape, np.int8),
        "b": np.array([0.5, -0.5, 0.25, 1], np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(4, np.float32),
        "scale": scales,
        "zero": np.zeros(4, np.uint8),
        "d": generator.integers(-127, 128, (4, 1, 3, 3)).astype(np.int8),
        "d_scale": kernel_scale,
        "d_zero": np.zeros(kernel_scale.shape, np.int8),
        "d_bias": np.ones(4, np.float32),
    }
    cut = ["made"] if clamp == "Relu" else ["made", "low", "high"]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
        helper.make_node("Conv", ["image", "wf", "b"], ["made"]),
        helper.make_node(clamp, cut, ["cut"]),
        helper.make_node("QuantizeLinear", ["cut", "scale", "zero"], ["steps"], axis=1),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["data"], axis=1),
        helper.make_node("DequantizeLinear", ["d", "d_scale", "d_zero"], ["df"], axis=0),
        helper.make_node("Conv", ["data", "df", "d_bias"], ["logits"], group=4),
    ]
    model = model_of(nodes, stored, [2, 3, 5, 5])
    image = generator.integers(-8, 9, (2, 3, 5, 5)).astype(np.float32) / 8
    before = logits_of(model, image)
    level_channels(model)
    (quantize,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert float(constants[quantize.input[1]]) == scales.max()
    assert "Clip" not in operators(model)
    np.testing.assert_array_equal(logits_of(model, image), before)
    assert before.std() > 0


def test_a_clip_below_the_limit_of_the_quantization_keeps_its_scales() -> None:
    stored = {
        "w": np.ones((2, 3, 1, 1), np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
        "scale": np.array([1, 2], np.float32),
        "zero": np.zeros(2, np.uint8),
        "d": np.ones((2, 1, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["made"]),
        helper.make_node("Clip", ["made", "low", "high"], ["cut"]),
        helper.make_node("QuantizeLinear", ["cut", "scale", "zero"], ["steps"], axis=1),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["data"], axis=1),
        helper.make_node("Conv", ["data", "d"], ["logits"], group=2),
    ]
    model = model_of(nodes, stored, [1, 3, 2, 2])
    before = model.SerializeToString()
    level_channels(model)
    assert model.SerializeToString() == before


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
    export_onnx(quantized.lowered, images(1), tmp_path / "m.onnx", CARD, {})
    found = computed(tmp_path / "m.onnx", tmp_path)
    assert (found["QLinearConv"], found["MatMulInteger"]) == (2, 2)
    assert not {"Conv", "Gemm", "MatMul", "DequantizeLinear"} & set(found)
