"""Files of the formats that need more than ONNX Runtime, as the evaluator runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from src.device.runtimes import NoRuntimeError, RefusedError, load

SHAPE = (3, 6, 8)


def runtime(name: str, *, stands_in_for: str | None = None) -> dict[str, str | None]:
    return {"name": name, "provider": None, "stands_in_for": stands_in_for}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 48, 5)).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))


def expected(net: nn.Module, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return net(images).numpy()


@pytest.mark.parametrize("free", [True, False], ids=["any number at once", "one at a time"])
def test_an_exported_program_gives_torchs_logits(
    tmp_path: Path, net: nn.Module, images: torch.Tensor, free: bool
) -> None:
    taken = images if free else images[:1]
    shapes = ({0: torch.export.Dim.DYNAMIC},) if free else None
    program = torch.export.export(net, (taken,), dynamic_shapes=shapes)
    program.example_inputs = None  # would be a pickle
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, str(tmp_path / "net.pt2"))
    loaded = load(tmp_path / "net.pt2", runtime("torch"), ["float32"], SHAPE, 1)
    assert loaded.batch == (None if free else 1)
    assert loaded.runtime.startswith("torch ")
    np.testing.assert_allclose(loaded.run(taken.numpy()), expected(net, taken), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_tflite_files_give_torchs_logits_in_floats_and_in_integers(
    tmp_path: Path, net: nn.Module, images: torch.Tensor, last: bool
) -> None:
    litert_torch = pytest.importorskip("litert_torch")
    quantizing = pytest.importorskip("ai_edge_quantizer")
    arranged = images.permute(0, 2, 3, 1).contiguous() if last else images
    model = litert_torch.to_channel_last_io(net, args=[0]) if last else net
    litert_torch.convert(model, (arranged[:1],)).export(str(tmp_path / "net.tflite"))
    loaded = load(tmp_path / "net.tflite", runtime("tflite"), ["float32"], SHAPE, 1)
    assert loaded.batch == 1
    one = images[:1]
    np.testing.assert_allclose(loaded.run(one.numpy()), expected(net, one), rtol=1e-4, atol=1e-5)

    quantizer = quantizing.quantizer.Quantizer(str(tmp_path / "net.tflite"))
    quantizer.load_quantization_recipe(quantizing.recipe.static_wi8_ai8())
    shown = [{"args_0": arranged[:1].numpy()}]  # only what is tested, or a mean over several ranges would cut it
    quantizer.quantize(quantizer.calibrate({"serving_default": shown})).export_model(str(tmp_path / "net8.tflite"))
    found, wanted = (
        load(tmp_path / "net8.tflite", runtime("tflite"), ["int8"], SHAPE, 1).run(one.numpy()),
        expected(net, one),
    )
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()


def test_a_tflite_file_for_other_images_is_refused(tmp_path: Path, net: nn.Module, images: torch.Tensor) -> None:
    litert_torch = pytest.importorskip("litert_torch")
    litert_torch.convert(net, (images[:1],)).export(str(tmp_path / "net.tflite"))
    with pytest.raises(RefusedError, match=r"its input is \[1, 3, 6, 8\], and the images are \[1, 9, 9\]"):
        load(tmp_path / "net.tflite", runtime("tflite"), ["float32"], (1, 9, 9), 1)


@pytest.mark.parametrize("ending", ["onnx", "tflite", "xml", "pt2"])
def test_what_is_no_model_is_refused_by_every_runtime(tmp_path: Path, ending: str) -> None:
    packages = {"onnx": "onnxruntime", "tflite": "ai_edge_litert", "xml": "openvino", "pt2": "torch"}
    pytest.importorskip(packages[ending])
    (tmp_path / f"net.{ending}").write_bytes(b"no model")
    with pytest.raises(RefusedError) as caught:
        load(tmp_path / f"net.{ending}", runtime("unknown"), ["float32"], SHAPE, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("said", [runtime("tensorrt"), runtime("onnxruntime", stands_in_for="tensorrt")])
def test_an_onnx_file_for_tensorrt_is_not_given_to_onnx_runtime(tmp_path: Path, said: dict[str, str | None]) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(NoRuntimeError, match="tensorrt is not installed"):
        load(tmp_path / "net.onnx", said, ["float32"], SHAPE, 1)


def test_an_onnx_file_runs_in_the_provider_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(NoRuntimeError, match="has no ROCMExecutionProvider here"):
        load(tmp_path / "net.onnx", {**runtime("onnxruntime"), "provider": "ROCMExecutionProvider"}, [], SHAPE, 1)
