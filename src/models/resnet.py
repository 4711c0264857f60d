"""ResNets for CIFAR: 6n + 2 layers in three stages of 16, 32 and 64 channels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        hidden = relu(self.bn1(self.conv1(images)))
        return relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


class CifarResNet(nn.Module):
    """ResNet for small images.

    Args:
        depth: Number of layers, 6n + 2, e.g. 20 (0.27 M parameters) or 56 (0.86 M).
        num_classes, in_channels: Number of classes and image channels.

    Paper: He et al. 2016, arXiv:1512.03385, section 4.2; projection shortcuts (option B) instead of padding.
    """

    def __init__(self, *, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 56, …), and is {depth}")
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        stages: list[nn.Module] = []
        inputs = 16
        for outputs in (16, 32, 64):
            for block in range(blocks):
                stages.append(BasicBlock(inputs, outputs, 2 if outputs != 16 and block == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.blocks(relu(self.bn(self.conv(images))))
        return self.fc(self.pool(hidden).flatten(1))
