"""Small convolutional networks for embedded boards: 3x3 convolutions, pooling, one dense layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Blocks of 3x3 convolutions with 2x2 max pooling after each block, then a dense layer and the classifier.

    Args:
        blocks: Output channels of the convolutions of each block, e.g. ``[[32, 32], [64, 64]]``.
        dense: Width of the hidden dense layer.
        padding: Padding of the convolutions: 1 keeps the image's side, 0 shrinks it by 2.
        batch_norm: Whether batch normalization follows each convolution.
        dropout: Dropout probability before the dense layer and before the classifier, in [0, 1).
        num_classes, in_channels, image_size: Number of classes and image channels; ``(height, width)`` of the images.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[Sequence[int]],
        dense: int,
        padding: int,
        batch_norm: bool,
        dropout: float,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, (height, width) = in_channels, image_size
        for block in blocks:
            for outputs in block:
                layers.append(nn.Conv2d(channels, outputs, 3, padding=padding, bias=not batch_norm))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(outputs))
                layers.append(nn.ReLU())
                channels, height, width = outputs, height - 2 + 2 * padding, width - 2 + 2 * padding
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        if min(height, width) < 1:
            raise ValueError(
                f"blocks: {len(blocks)} blocks shrink an image of {image_size[0]}x{image_size[1]} to nothing"
            )
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
