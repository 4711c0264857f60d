"""ONNX files as measuring reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from src.deploy.onnx_export import export_onnx
from src.deploy.onnx_graph import read_graph
from src.metrics.graph import macs, nonzero_parameters, parameters, peak_activation_bytes
from tests.exported import CARD, MACS, PARAMETERS, PEAKS, Exported, Quantized, Reading, cnn, halved, images, shuffled

# How networks go from a convolution to a dense layer, and the width it then has.
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
