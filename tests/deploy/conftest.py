"""A small convolutional and a residual network, their files, and a quantized network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from src.contracts import Compressed, Context, Graph, ModelCard, Session, Target
from src.deploy.onnxruntime import OnnxRuntime
from src.deploy.openvino import OpenVino
from src.methods.quantize_int8 import QuantizeInt8
from src.metrics.size import size_bytes
from src.models.resnet import CifarResNet
from src.models.small_cnn import SmallCNN

CONF = Path(__file__).parents[2] / "conf" / "method" / "quantize_int8.yaml"
CARD = ModelCard(("a", "b", "c"), (3, 8, 8), (0.5, 0.25, 1 / 3), (0.2, 0.25, 0.3), "0123456789abcdef")
TARGETS: dict[str, Target] = {
    "onnxruntime": OnnxRuntime(provider="CPUExecutionProvider", stored="float32"),
    "openvino": OpenVino(stored="float32", inference="float32"),
}


def settled(model: nn.Module) -> nn.Module:
    """``model`` in eval mode, with normalizations as a training would leave them."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias, 0, 0.5)
    return model.eval()


def cnn() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "in_channels": 3, "image_size": (8, 8)}
    return settled(SmallCNN(blocks=[[4], [6]], dense=8, padding=1, batch_norm=True, dropout=0.1, **sizes))


def residual() -> nn.Module:
    torch.manual_seed(0)
    return settled(CifarResNet(depth=8, num_classes=3, in_channels=3))


NETS = {"cnn": cnn, "residual": residual}


def images(count: int, side: int = 8) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Exported:
    """A network and its file."""

    model: nn.Module
    parts: tuple[Path, ...]
    target: Target

    @property
    def path(self) -> Path:
        return self.parts[0]

    @property
    def session(self) -> Session:
        return self.target.load(self.path)

    @property
    def graph(self) -> Graph:
        return self.target.graph(self.path)

    @property
    def size_bytes(self) -> int:
        return size_bytes(self.parts)


def export(model: nn.Module, target: Target, folder: Path, side: int = 8) -> Exported:
    return Exported(model, target.export(model, images(1, side), folder / f"model.{target.ending}", CARD, {}), target)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Exported]:
    """The file of each network for each target."""
    return {
        (net, name): export(make(), target, tmp_path_factory.mktemp(f"{net}_{name}"))
        for net, make in NETS.items()
        for name, target in TARGETS.items()
    }


@dataclass(frozen=True)
class Quantized:
    """A network most of whose bytes are weights, and its INT8 forms: with NNCF's quantizers, and with torch's."""

    plain: nn.Module
    hooked: nn.Module
    lowered: nn.Module
    method: QuantizeInt8


@pytest.fixture(scope="session")
def quantized() -> Quantized:
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "in_channels": 3, "image_size": (8, 8)}
    make = {"blocks": [[8], [16]], "dense": 1024, "padding": 1, "batch_norm": True, "dropout": 0.1}
    plain, copied = (settled(SmallCNN(**make, **sizes)) for _ in range(2))
    copied.load_state_dict(plain.state_dict())
    calibration = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in images(64).split(32)]

    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("post-training quantization trains nothing")

    def no_loss(*_: Tensor) -> Tensor:
        raise AssertionError("post-training quantization needs no loss")

    method = instantiate(OmegaConf.load(CONF))
    hooked = Compressed.of(method.compress(copied, Context(calibration, no_loss, images(1), 0, no_training))).model
    return Quantized(plain, hooked, method.lower(hooked, images(1)).model, method)
