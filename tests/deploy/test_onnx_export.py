"""ONNX files as they are written and read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from src.contracts import InputError
from src.deploy.onnx_export import OPSET, export_onnx
from src.deploy.onnx_graph import read_graph
from src.deploy.onnx_integers import store_integer_weights
from src.metrics.graph import macs, nonzero_parameters, parameters, peak_activation_bytes
from src.primitives.quantizers import Symmetric
from tests.deploy.conftest import CARD, Exported, Quantized, cnn, images

# By hand, batch normalization folded into a bias, on 3x8x8:
# cnn: 3*4*9+4, 4*6*9+6, 24*8+8, 8*3+3
# residual: 3*16*9+16; 2(16*16*9+16); 16*32*9+32, 32*32*9+32, 16*32+32; 32*64*9+64, 64*64*9+64, 32*64+64; 64*3+3
PARAMETERS = {
    "cnn": 112 + 222 + 200 + 27,
    "residual": 448 + 4640 + (4640 + 9248 + 544) + (18_496 + 36_928 + 2112) + 195,
}
# weights x places: 8x8, then 4x4, then 2x2
MACS = {
    "cnn": 108 * 64 + 216 * 16 + 192 + 24,
    "residual": (432 + 4608) * 64 + (4608 + 9216 + 512) * 16 + (18_432 + 36_864 + 2048) * 4 + 192,
}
# cnn: the image and the first convolution's 4x8x8; residual: three times 16x8x8 in the first block
PEAKS = {"cnn": 4 * (3 * 64 + 4 * 64), "residual": 4 * 3 * 16 * 64}


class Reading(nn.Module):
    """A convolution to 4x8x8, ``between``, a dense layer."""

    def __init__(self, between: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.between = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(features, 2), between

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.between(torch.relu(self.conv(x))))


def shuffled(x: Tensor) -> Tensor:
    count, channels, height, width = x.size()
    groups = x.view(count, 2, channels // 2, height, width)
    return groups.transpose(1, 2).contiguous().view(count, -1, height, width).mean((2, 3))


def halved(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat([second, first], 1).mean((2, 3))


# How networks of all hands go from a convolution to a dense layer, and the width it then has.
BETWEEN: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "flatten": (lambda x: x.flatten(1), 256),
    "view_minus_one": (lambda x: x.view(-1, 256), 256),
    "view_of_batch_size": (lambda x: x.view(x.size(0), -1), 256),
    "reshape_of_batch_size": (lambda x: x.reshape(x.shape[0], -1), 256),
    "mean": (lambda x: x.mean((2, 3)), 4),
    "adaptive_pool": (lambda x: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1), 4),
    "channel_shuffle": (shuffled, 4),
    "chunks": (halved, 4),
    "scaled_and_shifted": (lambda x: (0.5 * x + 1).flatten(1), 256),
    "flipped": (lambda x: x.flip(3).flatten(1), 256),
}


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}


@pytest.mark.parametrize("net", ["cnn", "residual"])
def test_parameters_macs_and_peak_are_those_counted_by_hand(
    exported: dict[tuple[str, str], Exported], net: str
) -> None:
    graph = read_graph(exported[net, "onnxruntime"].path)
    assert parameters(graph) == nonzero_parameters(graph) == PARAMETERS[net]
    assert macs(graph) == MACS[net]
    assert peak_activation_bytes(graph) == PEAKS[net]


@pytest.mark.parametrize(("between", "features"), BETWEEN.values(), ids=BETWEEN.keys())
def test_networks_are_counted_however_they_reach_their_dense_layer(
    tmp_path: Path, between: Callable[[Tensor], Tensor], features: int
) -> None:
    export_onnx(Reading(between, features), images(1), tmp_path / "m.onnx", CARD, {})
    graph = read_graph(tmp_path / "m.onnx")
    assert macs(graph) == 108 * 64 + features * 2
    assert parameters(graph) == 112 + features * 2 + 2
    # at the least the image and the convolution's result; at the most a copy of the latter and some shape numbers
    assert 4 * (192 + 256) <= peak_activation_bytes(graph) <= 4 * (256 + 256) + 200


def test_a_reshape_between_two_halves_is_counted_in_full(tmp_path: Path) -> None:
    """The convolution's 4x8x8 and its two halves of 2x8x8 live together."""
    export_onnx(Reading(halved, 4), images(1), tmp_path / "m.onnx", CARD, {})
    assert peak_activation_bytes(read_graph(tmp_path / "m.onnx")) >= 4 * (256 + 256)


def test_zeros_are_counted_in_the_file(tmp_path: Path) -> None:
    model = cnn()
    model.classifier[2].weight.data[:, :12] = 0  # half of 8x24
    export_onnx(model, images(1), tmp_path / "m.onnx", CARD, {})
    graph = read_graph(tmp_path / "m.onnx")
    assert parameters(graph) == PARAMETERS["cnn"]
    assert nonzero_parameters(graph) == PARAMETERS["cnn"] - 96


def test_macs_of_a_grouped_convolution_count_its_own_channels(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export_onnx(model, images(1), tmp_path / "m.onnx", CARD, {})
    assert macs(read_graph(tmp_path / "m.onnx")) == 6 * 9 * 36


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


# Integer weights ----------------------------------------------------------------------------------


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


def test_an_int8_file_is_counted_as_the_float_one(tmp_path: Path, quantized: Quantized) -> None:
    export_onnx(quantized.plain, images(1), tmp_path / "float.onnx", CARD, {})
    export_onnx(quantized.lowered, images(1), tmp_path / "int8.onnx", CARD, {})
    plain, integer = read_graph(tmp_path / "float.onnx"), read_graph(tmp_path / "int8.onnx")
    assert parameters(plain) == parameters(integer) == 224 + 1168 + 1024 * 65 + 3 * 1025
    assert macs(plain) == macs(integer) == 216 * 64 + 1152 * 16 + 65_536 + 3072
    assert nonzero_parameters(integer) < nonzero_parameters(plain)  # small weights round to zero
    # floats: the dense layer's 64 inputs and 1,024 outputs; bytes: the image, still floats, and the first 8x8x8
    assert peak_activation_bytes(plain) == 4 * (64 + 1024)
    assert peak_activation_bytes(integer) == 4 * 192 + 512


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
