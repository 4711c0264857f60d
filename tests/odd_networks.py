"""Networks that people bring and that cannot simply be trained or exported."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class Plain(nn.Module):
    """A convolution, the mean over each map, and a dense layer, with 8 maps; the others change one thing of it."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, 8, 3, stride=2)
        self.classifier = nn.Linear(8, num_classes)

    def features(self, images: Tensor) -> Tensor:
        return functional.relu(self.convolution(images))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


class AsksForItsVersion(Plain):
    """Loads no state dict without the version of its layers, as torchvision's MNASNet."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *more: Any) -> None:
        if local_metadata.get("version") not in (1, 2):
            raise ValueError(f"version should be set to 1 or 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


class AlwaysDrops(Plain):
    """Drops in eval mode, too."""

    def features(self, images: Tensor) -> Tensor:
        return functional.dropout(super().features(images), 0.5)


class Decides(Plain):
    """Negates an image that is dark; of a batch, all of it or nothing."""

    def forward(self, images: Tensor) -> Tensor:
        images = -images if images.mean() < 0 else images
        return super().forward(images)


class CountsItsBatch(Plain):
    """Gives the number of images to ``view`` as a Python number."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).amax((2, 3)).reshape(len(images), 8))
        return logits


class SinglePixels(Plain):
    """Normalizes a batch of single pixels, which takes two images or more in training."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(num_classes, in_channels)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.norm(self.features(images).mean((2, 3), keepdim=True)).flatten(1))
        return logits


class ViewsItsMaps(Plain):
    """Takes a view that no batch has whose channels are the last in memory, as they are in training."""

    def forward(self, images: Tensor) -> Tensor:
        values = self.features(images).view(len(images), -1)
        logits: Tensor = self.classifier(values.reshape(len(images), 8, -1).mean(2))
        return logits


class UnevenPool(Plain):
    """Pools 7x7 pixels to 3x3, windows that overlap."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(num_classes, in_channels)
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.classifier = nn.Linear(72, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


class Attends(Plain):
    """Lets the pixels of the maps attend to each other."""

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.features(images).flatten(2).transpose(1, 2)
        logits: Tensor = self.classifier(functional.scaled_dot_product_attention(pixels, pixels, pixels).mean(1))
        return logits
