"""Batches of normalized images, in an order that follows from seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from src.contracts import Augmentation, DataSplits, ImageSet


def mixed_seed(seed: int, epoch: int) -> int:
    """A generator seed for a pair of numbers; the multiplier keeps the seeds of neighbouring pairs apart."""
    return (seed * 1_000_003 + epoch * 7_919 + 17) % (2**63)


class TensorBatches:
    """Iterate over an image set in batches of normalized float32 images and their labels.

    Args:
        images: The image set; all of it is moved to ``device``.
        batch_size: Number of images in a batch, at least 1.
        mean, std: One number for each channel, of pixels in [0, 1].
        augmentation: Random change of the images before normalization; None leaves them as they are.
        shuffle_seed: Seed of the order, which also depends on the epoch; None keeps the order of the set.
        device: Device on which batches are made, e.g. ``cpu`` or ``cuda``.
        drop_last: Whether a last batch that is not full is left out.

    Yields:
        ``(images [b, c, h, w] float32, labels [b] int64)``.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None = None,
        shuffle_seed: int | None = None,
        device: str = "cpu",
        drop_last: bool = False,
    ) -> None:
        self.images = images.images.to(device)
        self.labels = images.labels.to(device)
        self.batch_size = min(batch_size, len(images))
        self.augmentation = augmentation
        self.shuffle_seed = shuffle_seed
        self.drop_last = drop_last
        self.epoch = 0
        self._shift = torch.tensor(mean, device=device).view(1, -1, 1, 1) * 255
        self._scale = 1 / (torch.tensor(std, device=device).view(1, -1, 1, 1) * 255)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next iteration uses."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.labels), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, device = len(self.labels), self.labels.device
        if self.shuffle_seed is None:
            order = None
        else:
            generator = torch.Generator(device=device).manual_seed(mixed_seed(self.shuffle_seed, self.epoch))
            order = torch.randperm(count, generator=generator, device=device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            if order is None:
                images = self.images[start : start + self.batch_size]
                labels = self.labels[start : start + self.batch_size]
            else:
                chosen = order[start : start + self.batch_size]
                images, labels = self.images[chosen], self.labels[chosen]
                if self.augmentation is not None:
                    images = self.augmentation(images, generator)
            yield self.normalize(images), labels

    def normalize(self, images: Tensor) -> Tensor:
        """Turn pixels 0 … 255 into float32 of mean 0 and deviation 1 for each channel."""
        return (images.to(torch.float32) - self._shift).mul_(self._scale)


def training_batches(splits: DataSplits, batch_size: int, *, seed: int, device: str = "cpu") -> TensorBatches:
    """Full batches of the training split, shuffled and augmented by (seed, epoch)."""
    return TensorBatches(
        splits.train,
        batch_size,
        mean=splits.mean,
        std=splits.std,
        augmentation=splits.augmentation,
        shuffle_seed=seed,
        device=device,
        drop_last=True,
    )


def calibration_batches(splits: DataSplits) -> TensorBatches:
    """Batches of 100 calibration images, on the CPU, not augmented."""
    return evaluation_batches(splits, splits.calibration, batch_size=100)


def example_image(splits: DataSplits) -> Tensor:
    """The first calibration image, normalized: ``[1, c, h, w]``."""
    return calibration_batches(splits).normalize(splits.calibration.images[:1])


def evaluation_batches(splits: DataSplits, images: ImageSet, *, batch_size: int, device: str = "cpu") -> TensorBatches:
    """Batches of ``images`` in order, not augmented, normalized by the mean and deviation of ``splits``."""
    return TensorBatches(images, batch_size, mean=splits.mean, std=splits.std, device=device)
