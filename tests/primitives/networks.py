"""Small networks for tests: chains, residual and dense connections, groups, and normalizations of every kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.models.mobilenet import MobileNetV2
from src.models.resnet import CifarResNet
from src.models.vgg import Vgg
from src.primitives.folding import NORMS

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in eval mode, its normalizations as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, NORMS):
            for tensor in (norm.running_mean, norm.bias):
                if tensor is not None:
                    tensor.data.normal_(0, 0.5, generator=generator)
            for tensor in (norm.running_var, norm.weight):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 2, generator=generator)
    return model.eval()


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return settled(build())


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 24, 3, padding=1)
        self.fc = nn.Linear(24 * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(torch.relu(self.bn(self.one(images))), 4)
        return self.fc(F.max_pool2d(torch.relu(self.two(hidden)), 2).flatten(1))


class Joined(nn.Module):
    """A concatenation with the image, a layer used twice, a grouped convolution, a scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.other = nn.Conv2d(3, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(35)
        self.grouped = nn.Conv2d(35, 35, 1)
        self.deep = nn.Conv2d(35, 32, 3, padding=1)
        self.wide = nn.Conv2d(32, 64, 3, padding=1, groups=4)
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 64).view(1, 64, 1, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.stem(images))
        again = self.twice(torch.relu(self.twice(hidden)))
        joined = torch.cat([images, again, self.other(images)], 1)
        deep = torch.relu(self.deep(self.grouped(torch.relu(self.bn(joined)))))
        return self.fc((self.wide(deep) * self.scale).mean((2, 3)))


class Normalized(nn.Module):
    """Group normalization, PReLU, a depthwise convolution that doubles the channels, squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(2, 16)
        self.act = nn.PReLU(16)
        self.doubled = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.act2 = nn.PReLU()
        self.squeeze = nn.Linear(32, 8)
        self.excite = nn.Linear(8, 32)
        self.head = nn.Conv2d(32, 10, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.act2(self.doubled(self.act(self.norm(self.stem(images)))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(hidden.mean((2, 3))))))
        return self.head(hidden * gate[:, :, None, None]).mean((2, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "joined": Joined,
    "normalized": Normalized,
    "resnet": lambda: CifarResNet(depth=8, num_classes=10, in_channels=3),
    "mobilenet": lambda: MobileNetV2(width=0.25, stem_stride=2, num_classes=10, in_channels=3),
    "vgg": lambda: Vgg(
        blocks=[[16], [32, 32]], dense=64, dropout=0.5, num_classes=10, in_channels=3, image_size=(16, 16)
    ),
}
