"""Batches gathered, augmented and normalized on whole tensors, in an order that follows from seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from src.contracts import Augmentation, DataSplits, ImageSet


def mixed_seed(seed: int, epoch: int) -> int:
    """One generator seed for a pair; the multiplier keeps neighbouring pairs apart."""
    return (seed * 1_000_003 + epoch * 7_919 + 17) % (2**63)


class TensorBatches:
    """Iterate over an image set in batches of normalized float32 images and their labels.

    Args:
        images: The set; moved to ``device`` whole.
        batch_size: At least 1.
        mean, std: Per channel, of pixels in [0, 1].
        augmentation: Applied before normalization; None for none.
        shuffle_seed: None keeps the order; else epoch e has the order of (seed, e).
        device: Where batches are made, e.g. ``cpu`` or ``cuda``.
        drop_last: Leave out a last batch that is not full.

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
        """Choose the epoch whose order and augmentation the next iteration has."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.labels), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

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
                picked = order[start : start + self.batch_size]
                images, labels = self.images[picked], self.labels[picked]
                if self.augmentation is not None:
                    images = self.augmentation(images, generator)
            yield self.normalize(images), labels

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels 0 … 255 to float32 of zero mean and unit deviation per channel."""
        return (images.to(torch.float32) - self._shift).mul_(self._scale)


def training_batches(splits: DataSplits, batch_size: int, *, seed: int, device: str = "cpu") -> TensorBatches:
    """Batches of the training split, shuffled and augmented by (seed, epoch), the last left out if it is not full."""
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
    """Batches in file order, not augmented, normalized as ``splits`` says."""
    return TensorBatches(images, batch_size, mean=splits.mean, std=splits.std, device=device)
