"""VGG with batch normalization for 32x32 images; torchvision's VGG16 (138 M parameters) is ``model=vgg16_imagenet``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Vgg(nn.Module):
    """VGG for small images: its convolutions, then one dense layer; VGG16 has 15 M parameters on 32x32.

    Args:
        blocks: Output channels of the convolutions of each block; max pooling follows each block.
        dense: Width of the hidden dense layer.
        dropout: Dropout probability before each dense layer, in [0, 1).
        num_classes, in_channels, image_size: Number of classes and image channels; ``(height, width)`` of the images.

    Paper: Simonyan and Zisserman 2015, arXiv:1409.1556, column D; one dense layer instead of two of 4096, as is
    usual for 32x32.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[Sequence[int]],
        dense: int,
        dropout: float,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        height, width = (side // 2 ** len(blocks) for side in image_size)
        if min(height, width) < 1:
            raise ValueError(f"{len(blocks)} poolings shrink an image of {image_size[0]}x{image_size[1]} to nothing")
        layers: list[nn.Module] = []
        channels = in_channels
        for block in blocks:
            for outputs in block:
                layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels * height * width, dense),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dense, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))
