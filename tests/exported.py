"""A small convolutional and a residual network, their files, and a quantized network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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

CONF = Path(__file__).parents[1] / "conf" / "method" / "quantize_int8.yaml"
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


@dataclass(frozen=True)
class Quantized:
    """A network most of whose bytes are weights, and its INT8 forms: with NNCF's quantizers, and with torch's."""

    plain: nn.Module
    hooked: nn.Module
    lowered: nn.Module
    method: QuantizeInt8


def quantize() -> Quantized:
    """Make the quantized network; tests take it from the fixture ``quantized``, which makes it once."""
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
