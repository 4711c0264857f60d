"""MobileNetV2 for small images."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 with a first convolution of stride ``stem_stride``, so that 32x32 images keep detail.

    Args:
        width: Factor of the number of channels of all layers.
        stem_stride: Stride of the first convolution: 1 for images of about 32x32, 2 for 224x224.
        num_classes, in_channels: Number of classes and image channels.

    Paper: Sandler et al. 2018, arXiv:1801.04381.
    """

    def __init__(self, *, width: float, stem_stride: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        self.net = mobilenet_v2(weights=None, width_mult=width, num_classes=num_classes)
        stem = cast(nn.Sequential, self.net.features[0])
        outputs = cast(nn.Conv2d, stem[0]).out_channels
        stem[0] = nn.Conv2d(in_channels, outputs, 3, stem_stride, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.net(images))
