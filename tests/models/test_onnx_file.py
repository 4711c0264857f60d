"""Networks from ONNX files whose source is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from src.contracts import DataSplits, InputError
from src.models.build import NetworkSource, build_model
from src.models.onnx_file import _compare, onnx_network
from src.models.weights import Weights
from tests.plans import experiment, plan

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
IMAGES = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def exported(path: Path, **settings: object) -> Path:
    """A small network of ten classes as torch writes it."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 10)
    ).eval()
    torch.onnx.export(net, (torch.zeros(1, 3, 16, 16),), str(path), dynamo=False, **settings)
    return path


def like_tf2onnx(path: Path) -> Path:
    """Channels last, a Transpose at the head, one image at once, dense as MatMul and Add, softmax at the end."""
    random = np.random.default_rng(1)
    weights = {
        "kernel": random.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "bias": random.normal(size=8).astype(np.float32),
        "dense": random.normal(size=(8 * 14 * 14, 10)).astype(np.float32) / 40,
        "dense_bias": random.normal(size=10).astype(np.float32),
        "shape": np.array([1, 8 * 14 * 14], np.int64),
    }
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "kernel", "bias"], ["conv"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Transpose", ["relu"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["product"]),
        helper.make_node("Add", ["product", "dense_bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tf2onnx",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 16, 16, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), str(path))
    return path


def brought(path: Path, splits: DataSplits, say: list[str] | None = None) -> nn.Module:
    source = NetworkSource(onnx_network, weights=Weights(path))
    return build_model(source, splits, 0, say=(say if say is not None else []).append).eval()


def test_a_file_of_torch_becomes_layers_that_give_the_same(splits: DataSplits, tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx", dynamic_axes={"x": {0: "n"}}, input_names=["x"])
    model = brought(path, splits)
    np.testing.assert_allclose(model(torch.from_numpy(IMAGES)).detach().numpy(), logits(path, IMAGES), atol=1e-4)
    assert {type(module) for module in model.modules()} >= {nn.Conv2d, nn.Linear}
    assert sum(parameter.numel() for parameter in model.parameters()) > 8 * 27 + 8 * 49 * 10


def test_a_file_for_one_image_at_once_takes_any_number(splits: DataSplits, tmp_path: Path) -> None:
    path = exported(tmp_path / "net.onnx")
    expected = np.concatenate([logits(path, image[None]) for image in IMAGES])
    found = brought(path, splits)(torch.from_numpy(IMAGES)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_file_of_tf2onnx_gets_channels_last_and_gives_logits(splits: DataSplits, tmp_path: Path) -> None:
    path, said = like_tf2onnx(tmp_path / "net.onnx"), []
    model = brought(path, splits, said)
    last = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1))
    expected = np.concatenate([logits(path, image[None]) for image in last])
    found = model(torch.from_numpy(IMAGES))
    np.testing.assert_allclose(found.softmax(1).detach().numpy(), expected, atol=1e-5)
    assert said[0].startswith("the network ends in softmax")
    assert [type(module) for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))] == [
        nn.Conv2d,
        nn.Linear,
    ]


@pytest.mark.parametrize("name", ["squeezenet", "resnet50", "shufflenet"])
def test_files_of_opset_9_with_weights_as_constants_become_layers(name: str) -> None:
    model = onnx_network(file=LIGHT / f"light_{name}.onnx", in_channels=3, image_size=(224, 224))
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 20
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e6


def test_a_quantized_file_is_answered_in_a_line(splits: DataSplits, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(exported(tmp_path / "net.onnx"), tmp_path / "int8.onnx")
    with pytest.raises(
        InputError, match=r"was quantized \(.*\), and integers cannot be trained .* take the float file"
    ):
        brought(tmp_path / "int8.onnx", splits)


def test_images_of_another_size_are_named(splits: DataSplits) -> None:
    with pytest.raises(InputError, match=r"takes images of 3x224x224, and the data has 3x16x16"):
        brought(LIGHT / "light_squeezenet.onnx", splits)


def test_a_file_that_is_no_onnx_file_is_named(splits: DataSplits, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no such thing")
    with pytest.raises(InputError, match=r"net\.onnx cannot be"):
        brought(tmp_path / "net.onnx", splits)


def test_such_a_network_is_pruned_fine_tuned_and_exported(tmp_path: Path) -> None:
    path = exported(tmp_path / "legacy.onnx")
    made = plan(
        "model=onnx",
        f"model.weights={path}",
        "method=prune_channels",
        "method.fine_tune.epochs=1",
        "method.round_to=1",
        "timing.seconds=0.02",
    )
    baseline, pruned = experiment(made, tmp_path).run()
    assert (baseline.model, baseline.weights_kept) == ("legacy", "as given")
    assert pruned.parameters < baseline.parameters
    assert pruned.agreement == 1.0


def test_every_output_is_compared(tmp_path: Path) -> None:
    class Two(nn.Module):
        """Logits, and features that are multiplied by a factor."""

        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images.mean((2, 3)), self.factor * images.amax((2, 3))

    path = tmp_path / "two.onnx"
    batch = {"x": {0: "n"}}
    torch.onnx.export(
        Two(1.0), (torch.zeros(1, 3, 4, 4),), str(path), dynamo=False, input_names=["x"], dynamic_axes=batch
    )
    _compare(Two(1.0), onnx.load(path), path, (3, 4, 4), False)
    with pytest.raises(InputError, match="gives other results as layers"):
        _compare(Two(1.01), onnx.load(path), path, (3, 4, 4), False)
