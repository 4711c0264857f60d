"""Images with labels, split into their three parts, and what loads and varies them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images and labels held in memory (or memory-mapped).

    Attributes:
        images: ``[n, channels, height, width]``, uint8.
        labels: ``[n]``, int64, each in ``[0, classes)``.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> ImageSet:
        """The images and labels at ``indices`` (``[k]``, int64), in that order."""
        return ImageSet(self.images[indices], self.labels[indices])


class Augmentation(Protocol):
    """A random change of training images, on whole batches."""

    def __call__(self, images: Tensor, generator: Any) -> Tensor:
        """Change ``images`` (``[n, c, h, w]``, uint8 or float) and keep their shape."""
        ...


@dataclass(frozen=True)
class DataSplits:
    """A data set, split; the test part is for result rows and nothing else.

    Attributes:
        name: How people call it, e.g. ``cifar10``.
        classes: The label names, in label order.
        train, validation, test: The three parts.
        calibration: Training images (never validation, never test) shown to post-training methods.
        mean, std: Per channel, of pixels scaled to [0, 1].
        augmentation: Applied to training batches only; None leaves them as they are.
        checksum: SHA-256 over every pixel and label as published (training set, then test set).
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    calibration: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation | None
    checksum: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


class DataSource(Protocol):
    """What a ``conf/data`` file's ``_target_`` builds."""

    def load(self) -> DataSplits:
        """Read, check and split the data.

        Raises:
            InputError: It is missing, damaged or not what it says.
        """
        ...


class EpochBatches(Protocol):
    """Batches whose order and augmentation follow from the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...
