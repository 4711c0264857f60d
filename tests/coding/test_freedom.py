"""exact=outputs: hidden units in the order that packs best, and the same logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from src.coding.container import pack, tensor_of, unpack
from src.coding.errors import DnncError
from src.coding.freedom import hidden_layers
from src.coding.graph import from_onnx
from src.device.packed_graph import onnx_bytes, parsed_graph
from tests.coding.examples import pruned, shared
from tests.coding.test_graph import logits, model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A convolution, pooling, two dense layers: three layers follow one another, so two are hidden."""
    draws = np.random.default_rng(0)
    stored = {
        "conv.weight": draws.normal(0, 1, (6, 1, 3, 3)).astype(np.float32),
        "conv.bias": np.rint(draws.normal(0, 4, 6)).astype(np.float32) / 8,
        "fc1.weight": shared(pruned(60, 96, 0.2), 7),
        "fc1.bias": np.rint(draws.normal(0, 4, 60)).astype(np.float32) / 8,
        "fc2.weight": pruned(60, 10, 0.4),
    }
    stored["fc1.weight"][0, :9] = -0.0
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight", "conv.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "fc1.weight", "fc1.bias"], ["e"], transB=1),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "fc2.weight"], ["y"]),
    ]
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, stored, "y"), str(path))
    return path


def test_hidden_layers_are_found_with_the_axes_of_their_readers(file: Path) -> None:
    tensors, graph, _ = from_onnx(file)
    found = [
        (layer.weight, layer.reader, layer.reader_axis)
        for layer in hidden_layers(tensors, parsed_graph(graph, list(tensors)))
    ]
    assert found == [("conv.weight", "fc1.weight", 1), ("fc1.weight", "fc2.weight", 0)]


@pytest.mark.slow
def test_the_logits_stay_and_the_file_is_smaller(file: Path) -> None:
    tensors, graph, _ = from_onnx(file)
    by_bits, by_outputs = (pack(tensors, "small", graph=graph, exact=exact) for exact in ("bits", "outputs"))
    assert len(by_outputs) < len(by_bits)
    back = unpack(by_outputs)
    assert not np.array_equal(back.tensors["fc1.weight"].bits, tensors["fc1.weight"].bits)
    assert np.allclose(logits(onnx_bytes(back)), logits(str(file)), rtol=1e-5, atol=1e-5)


def test_bare_weights_do_not_say_which_units_may_be_reordered() -> None:
    with pytest.raises(DnncError, match="needs a graph"):
        pack({"w": tensor_of(np.eye(3))}, "small", exact="outputs")
