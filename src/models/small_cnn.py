"""The small convolutional networks of embedded boards: 3x3 convolutions, pooling, one dense layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Blocks of 3x3 convolutions, each block ended by 2x2 max pooling, then a dense layer and the classifier.

    Args:
        blocks: Output channels of the convolutions of each block, e.g. ``[[32, 32], [64, 64]]``.
        dense: Width of the hidden dense layer.
        padding: 1 keeps the image's side in a convolution, 0 shrinks it by 2.
        batch_norm: Batch normalization after each convolution.
        dropout: Probability before the dense layer and before the classifier, in [0, 1).
        num_classes, in_channels, image_size: Of the data; ``image_size`` is ``(height, width)``.
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
