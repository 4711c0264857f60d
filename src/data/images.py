"""The base of all image data sets: checked reading, a fixed split, a checksum."""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from src.contracts import Augmentation, DataSplits, ImageSet, InputError, Mixing, Preparation
from src.data.findings import of_labels
from src.data.resizing import resized_pixels


def data_root(root: str | None) -> Path:
    """The folder that holds the data: ``root`` if it is given, else that of ``DNNC_DATA``, else ``data``."""
    return Path(root or os.environ.get("DNNC_DATA") or "data").expanduser()


def validation_indices(groups: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split images into training and validation without dividing a group.

    Args:
        groups: Group number of each image, ``[n]``, int64; images of one group stay together, e.g. frames of a video.
        share: Share of the images in the validation split, in (0, 1).
        seed: Seed of the order of the groups.

    Returns:
        Sorted indices of the training and of the validation images, int64; together they are ``0 … n-1``.
    """
    _, members, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    chosen = torch.zeros(len(counts), dtype=torch.bool)
    left = max(1, round(share * len(groups)))
    for group, count in zip(order.tolist(), counts[order].tolist(), strict=True):
        if count <= left:
            chosen[group] = True
            left -= count
    if not chosen.any():  # every group is larger than the share
        chosen[order[0]] = True
    in_validation = chosen[members]
    return (~in_validation).nonzero().flatten(), in_validation.nonzero().flatten()


def checksum(*parts: ImageSet) -> str:
    """SHA-256 over shapes, pixels and labels of ``parts`` in order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(tuple(part.images.shape)).encode())
        for images in part.chunks():
            digest.update(images.contiguous().numpy().data)
        digest.update(part.labels.contiguous().numpy().data)
    return digest.hexdigest()


class ImageData(ABC):
    """A data set of images, in memory or in a file that is mapped into it; subclasses read it.

    Args:
        root: Folder of the data; None takes that of ``DNNC_DATA``, or ``data``.
        sha256: Expected checksum of the published pixels and labels; None accepts any.
        validation_share: Share of the training images in the validation split, in (0, 1).
        calibration_images: Number of training images shown to post-training methods, at least 1.
        split_seed: Seed of the split; it is not the seed of the run, so that runs of all seeds can be compared.
        mean, std: One number for each channel, of pixels in [0, 1]; None measures them on the training split.
        augmentation: Random change of training batches; None leaves them as they are.
        mixing: Random mixture of training batches and their labels; None mixes nothing.
        height, width: Size that all images are brought to, at least 8; None keeps the set's own.
        interpolation, crop, fit, background: How they are brought there (``Preparation``); None takes its defaults.

    Attributes:
        name: Name of the data set.
        preparation: How files of images become these.
    """

    name: str
    preparation: Preparation

    def __init__(
        self,
        *,
        root: str | None,
        sha256: str | None,
        validation_share: float,
        calibration_images: int,
        split_seed: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        augmentation: Augmentation | None,
        mixing: Mixing | None = None,
        height: int | None = None,
        width: int | None = None,
        interpolation: str | None = None,
        crop: float | None = None,
        fit: str | None = None,
        background: int | None = None,
    ) -> None:
        if not 0 < validation_share < 1:
            raise ValueError(f"validation_share must be in (0, 1), and is {validation_share}")
        if calibration_images < 1:
            raise ValueError(f"calibration_images must be at least 1, and is {calibration_images}")
        if (mean is None) != (std is None):
            raise ValueError("mean and std come together: give both, or neither to have them measured")
        for name, pixels in (("height", height), ("width", width)):
            if pixels is not None and pixels < 8:
                raise ValueError(f"{name} must be at least 8 pixels, and is {pixels}")
        self.height, self.width = height, width
        self.preparation = Preparation(interpolation or Preparation.interpolation, crop, fit, background)
        self.root = data_root(root)
        self.sha256 = sha256
        self.validation_share = validation_share
        self.calibration_images = calibration_images
        self.split_seed = split_seed
        self.mean, self.std = mean, std
        self.augmentation, self.mixing = augmentation, mixing

    @abstractmethod
    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        """Return the published training set, the test set, and the class names."""

    def groups(self, train: ImageSet) -> Tensor:
        """Group number of each training image, ``[n]``, int64; each image is a group of its own by default."""
        return torch.arange(len(train))

    def divided(self, published: ImageSet) -> tuple[Tensor, Tensor]:
        """Sorted indices of the training and of the validation images among the published training images."""
        return validation_indices(self.groups(published), self.validation_share, self.split_seed)

    def checksummed(self, published: ImageSet, test: ImageSet) -> tuple[ImageSet, ...]:
        """What the checksum is taken of."""
        return published, test

    def load(self) -> DataSplits:
        """Read, check and split the data; the calibration images come from the training split.

        Raises:
            InputError: The data is missing, damaged, or labels and images do not fit each other.
        """
        published, test, classes = self.read()
        for part, images in (("training", published), ("test", test)):
            if len(images) == 0:
                raise InputError(f"{self.name}: the {part} set is empty")
            if int(images.labels.min()) < 0 or int(images.labels.max()) >= len(classes):
                raise InputError(f"{self.name}: a label of the {part} set is outside 0 … {len(classes) - 1}")
        if published.images.shape[1:] != test.images.shape[1:]:
            raise InputError(
                f"{self.name}: training images are {tuple(published.images.shape[1:])} and test images "
                f"{tuple(test.images.shape[1:])} (channels, height, width); they must agree"
            )
        found = checksum(*self.checksummed(published, test))
        if self.sha256 is not None and found != self.sha256:
            raise InputError(
                f"{self.name}: the pixels and labels in {self.root} have checksum {found[:12]}… and should have "
                f"{self.sha256[:12]}…; the data is damaged or another version (data.sha256=null accepts it)"
            )
        published, test = self._resized(published), self._resized(test)
        train_at, validation_at = self.divided(published)
        if len(train_at) == 0:
            raise InputError(f"{self.name}: the validation split takes every training image; add images or groups")
        train, validation = published.select(train_at), published.select(validation_at)
        shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.split_seed))
        mean, std = self._statistics(train)
        return DataSplits(
            name=self.name,
            classes=tuple(classes),
            train=train,
            validation=validation,
            test=test,
            calibration=train.select(shuffled[: self.calibration_images]),
            mean=mean,
            std=std,
            augmentation=self.augmentation,
            checksum=found,
            preparation=self.preparation,
            mixing=self.mixing,
            remarks=tuple(of_labels(classes, train, validation, test)),
        )

    def _resized(self, images: ImageSet) -> ImageSet:
        """The images, brought to ``height`` x ``width``."""
        _, own_height, own_width = images.images.shape[1:]
        size = (self.height or own_height, self.width or own_width)
        if (own_height, own_width) == size:
            return images
        try:
            return ImageSet(resized_pixels(images.images[:], size, self.preparation), images.labels)
        except ValueError as error:
            raise InputError(f"{self.name}: {error}") from error

    def _statistics(self, images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel: as configured, or measured on ``images``."""
        channels = images.images.shape[1]
        if self.mean is not None and self.std is not None:
            if len(self.mean) != channels or len(self.std) != channels:
                raise InputError(
                    f"{self.name}: data.mean and data.std need {channels} values, one a channel, "
                    f"and have {len(self.mean)} and {len(self.std)}"
                )
            return tuple(self.mean), tuple(self.std)
        sums = torch.zeros(channels, dtype=torch.float64)
        squares = torch.zeros(channels, dtype=torch.float64)
        for chunk in images.chunks():
            pixels = chunk.to(torch.float32)  # sums over a row of up to 258 pixels are whole numbers below 2^24: exact
            sums += pixels.sum(3).to(torch.float64).sum((0, 2))
            squares += pixels.square_().sum(3).to(torch.float64).sum((0, 2))
        count = math.prod(images.images.shape) / channels
        mean = sums / (255 * count)
        std = (squares / (255**2 * count) - mean.square()).clamp(min=1e-6).sqrt()
        return tuple(round(float(m), 4) for m in mean), tuple(max(round(float(s), 4), 1e-3) for s in std)
