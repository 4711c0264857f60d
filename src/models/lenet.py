"""LeNet-300-100 and LeNet-5, the two classic networks of pruning papers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu


class LeNet300(nn.Module):
    """Two hidden dense layers of 300 and 100 units: 266,610 parameters on 28x28 images and 10 classes.

    Paper: LeCun et al. 1998, Proc. IEEE 86(11); ReLU instead of the sigmoid, as in pruning papers.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * image_size[0] * image_size[1], 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc3(relu(self.fc2(relu(self.fc1(images.flatten(1))))))


class LeNet5(nn.Module):
    """Caffe's LeNet-5: 431,080 parameters on 28x28 images and 10 classes.

    Paper: Han et al. 2015, arXiv:1506.02626, table 4.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        height, width = (((side - 4) // 2 - 4) // 2 for side in image_size)
        if min(height, width) < 1:
            raise ValueError(f"LeNet-5 needs images of at least 16x16, and these are {image_size[0]}x{image_size[1]}")
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * height * width, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = max_pool2d(self.conv1(images), 2)
        hidden = max_pool2d(self.conv2(hidden), 2)
        return self.fc2(relu(self.fc1(hidden.flatten(1))))
