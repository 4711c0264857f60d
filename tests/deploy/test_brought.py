"""What a network of somebody else is wrapped in when it comes in, exported for every runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from src.contracts import ModelCard, Preparation, Target
from src.deploy.onnxruntime import OnnxRuntime
from src.deploy.openvino import OpenVino
from src.deploy.tflite import TfLite
from src.deploy.torch_program import TorchProgram
from src.models.onnx_file import ChannelsLast
from src.models.outputs import ChosenOutput, LogOfProbabilities, TwoLogits

CARD = ModelCard(("a", "b"), (3, 8, 8), (0.5,) * 3, (0.25,) * 3, "id", Preparation("bicubic", 0.875))
TARGETS: list[Target] = [
    OnnxRuntime(provider="CPUExecutionProvider", stored="float32"),
    OpenVino(stored="float32", inference="float32"),
    TfLite(stored="float32", dynamic_batch=False),
    TorchProgram(stored="float32"),
]


class Inner(nn.Module):
    """A small network whose result is made by ``ending``."""

    def __init__(self, ending: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.ending = nn.Conv2d(3, 4, 3), nn.Linear(4, 1 if "one" in ending else 2), ending

    def forward(self, images: Tensor) -> object:
        logits = self.fc(self.conv(images).relu().mean((2, 3)))
        made = {
            "one": logits,
            "one_probability": logits.sigmoid().squeeze(1),
            "softmax": logits.softmax(1),
            "dict": {"x": images, "logits": logits},
        }
        return made[self.ending]


class Last(nn.Module):
    """Takes channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8 * 8 * 3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.flatten(1))


WRAPPED = {
    "one_logit": TwoLogits(Inner("one")),
    "one_probability": LogOfProbabilities(Inner("one_probability"), single=True),
    "softmax": LogOfProbabilities(Inner("softmax"), single=False),
    "dict": ChosenOutput(Inner("dict"), ("logits",), ("logits",), ()),
    "channels_last": ChannelsLast(Last()),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.runtime.name)
@pytest.mark.parametrize("model", WRAPPED.values(), ids=WRAPPED)
def test_a_wrapped_network_gives_its_logits_in_every_runtime(model: nn.Module, target: Target, tmp_path: Path) -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    path = tmp_path / f"model.{target.ending}"
    target.export(model.eval(), images[:1], path, CARD, {})
    found = torch.from_numpy(target.load(path)(images.numpy()))
    torch.testing.assert_close(found, model(images), atol=1e-4, rtol=1e-4)
    assert target.read_card(path) == CARD
