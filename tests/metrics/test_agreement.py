"""Agreement of files with torch, and the first layer that departs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from src.contracts import Lowered, ModelCard, StoredWeight
from src.deploy.onnxruntime import OnnxRuntime
from src.metrics.agreement import agreement, departs_at
from tests.exported import CARD, NETS, TARGETS, Quantized, images
from tests.odd_networks import Decides
from tests.processor import SATURATES


def test_differences_are_those_of_the_logits() -> None:
    model = torch.nn.Flatten()

    def session(shown):  # type: ignore[no-untyped-def]
        logits = shown.reshape(len(shown), -1).copy()
        if len(logits) == 2:
            logits[0, 1] += 10  # of two images the first is seen as another class
        return logits

    shown = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]).view(2, 3, 1, 1)
    found = agreement(session, model, [shown])
    assert found.classes == 0.5
    assert found.largest == 10
    assert found.mean == pytest.approx(10 / 6)
    assert found.range == 3


def test_images_are_run_alone_too_since_a_network_may_decide_by_its_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, shown = Decides(3).eval(), images(200, 16) + 0.5
    shown[::4] -= 1  # dark images, which the network negates if they come alone
    path = tmp_path / "model.onnx"
    TARGETS["onnxruntime"].export(model, shown[1:2], path, ModelCard(("a",), (3, 16, 16), (0,), (1,), ""), {})
    session = TARGETS["onnxruntime"].load(path)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in shown[:32]]).argmax(1)
    same = float((torch.from_numpy(session(shown[:32].numpy())).argmax(1) == alone).float().mean())
    assert same < 1
    assert agreement(session, model, [shown]).classes == pytest.approx(same)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("net", NETS)
def test_an_exported_file_agrees_with_its_model(target: str, net: str, tmp_path: Path) -> None:
    model = NETS[net]()
    parts = TARGETS[target].export(model, images(1), tmp_path / f"model.{TARGETS[target].ending}", CARD, {})
    found = agreement(TARGETS[target].load(parts[0]), model, [images(50)])
    assert found.classes == 1
    assert found.mean <= found.largest < 1e-4


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("net", NETS)
def test_no_layer_departs_if_the_file_agrees(target: str, net: str, tmp_path: Path) -> None:
    assert departs_at(TARGETS[target], Lowered(NETS[net](), {}, False), images(1), images(8), tmp_path) is None


class Lossy(OnnxRuntime):
    """A target that changes the weights of a layer, as a careless exporter might."""

    def __init__(self, layer: str) -> None:
        super().__init__(provider="CPUExecutionProvider", stored="float32")
        self.layer = layer

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        weight = model.get_parameter(f"model.{self.layer}.weight")
        weight.data.mul_(3)
        return super().export(model, example_input, path, card, weights)


def test_the_layer_whose_outputs_are_wrong_is_named(tmp_path: Path) -> None:
    model = NETS["cnn"]()
    layers = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
    for layer in layers:
        assert departs_at(Lossy(layer), Lowered(model, {}, False), images(1), images(8), tmp_path) == layer


@pytest.mark.parametrize("target", TARGETS)
def test_layers_of_a_quantized_network_can_be_looked_at(target: str, quantized: Quantized, tmp_path: Path) -> None:
    lowered = Lowered(quantized.lowered, {}, True)
    found = departs_at(TARGETS[target], lowered, images(1), images(8), tmp_path)
    assert found is None or (SATURATES and found == "classifier.2")  # a sum over 1,024 products
