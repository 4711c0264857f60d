"""Data that a Python program holds: loaders and tensors as splits, and a user's loader as the batches of a training."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.contracts import Augmentation, DataSplits, ImageSet, InputError
from src.data.batches import mixed_seed
from src.data.images import checksum

Images = tuple[Tensor, Tensor] | Iterable[Any]
CALIBRATION = 1000  # training images that post-training methods see, as in conf/data
ROUNDING = 0.01  # pixels this near to whole numbers are whole numbers


class LoaderBatches:
    """The batches of a user's loader, which may shuffle and augment as it likes.

    Torch, numpy and ``random`` are seeded by (seed, epoch) before each epoch, so that a loader that draws from them
    gives the same batches when a training is resumed. It is no dataclass: Lightning would copy one field by field.

    Args:
        loader: Yields ``(images, labels)``; can be iterated again and again.
        steps: Number of its batches.
        mean, std: Normalization of uint8 images; images of floats are taken as they are.
        seed: Seed of what is random in an epoch.
        device: Device that batches are moved to.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        steps: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.loader, self.steps = loader, steps
        self.mean, self.std = mean, std
        self.seed, self.device = seed, device

    def __call__(self, seed: int, device: str) -> LoaderBatches:
        """The same loader with this seed, on this device."""
        return LoaderBatches(self.loader, self.steps, self.mean, self.std, seed, device)

    def set_epoch(self, epoch: int) -> None:
        """Seed what the next iteration draws from, and tell a sampler that wants to know the epoch."""
        _seed(mixed_seed(self.seed, epoch))
        sampler: Any = getattr(self.loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (self.mean, self.std))
        for images, labels in self.loader:
            if images.dtype == torch.uint8:
                images = (images.to(torch.float32) / 255 - mean) / std
            yield images.to(self.device, torch.float32), labels.to(self.device, torch.int64)


def splits(
    train: Images,
    validation: Images,
    test: Images,
    *,
    name: str = "data",
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augmentation: Augmentation | None = None,
) -> DataSplits:
    """Images and labels of a Python program as the three parts of a data set; all are held in memory.

    A part is a pair of tensors ``(images [n, c, h, w], labels [n])``, or a loader that yields such pairs. A loader of
    training images is iterated anew each epoch, so that its augmentation goes on; the others are read once.

    Args:
        train: Training images; methods see up to 1,000 of them for calibration.
        validation: Images that choose: the best epoch, whether a budget is kept.
        test: Images for the result rows and nothing else.
        name: What people call the data.
        classes: Names of the labels; None calls them by their numbers.
        mean, std: One number for each channel, of pixels in [0, 1], by which floating-point images were normalized, or
            by which uint8 images are to be. None is 0 and 1. Exported files say them.
        augmentation: Random change of training batches, of tensors only.

    Raises:
        InputError: A part is empty, images and labels do not fit each other, or a value is not finite.
    """
    own: Any = None if _is_pair(train) else train
    if own is not None and augmentation is not None:
        raise InputError("augmentation is for tensors: a loader of training images augments them by itself")
    parts, steps = dict[str, ImageSet](), 0
    for part, given in (("train", train), ("validation", validation), ("test", test)):
        images, labels, batches = _read(part, given)
        steps = batches if part == "train" else steps
        channels = images.shape[1]
        shift, scale = tuple(mean or [0.0] * channels), tuple(std or [1.0] * channels)
        if len(shift) != channels or len(scale) != channels or not all(each > 0 for each in scale):
            raise InputError(f"mean and std need a number for each of {channels} channels, those of std above 0")
        parts[part] = ImageSet(_pixels(part, images, shift, scale), labels)
    named = _classes(parts, classes)
    order = torch.randperm(len(parts["train"]), generator=torch.Generator().manual_seed(0))
    chunks = (chunk for each in parts.values() for chunk in each.chunks())
    outside = any(float(chunk.min()) < 0 or float(chunk.max()) > 255 for chunk in chunks)
    return DataSplits(
        name=name,
        classes=named,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        calibration=parts["train"].select(order[:CALIBRATION]),
        mean=shift,
        std=scale,
        augmentation=augmentation,
        checksum=checksum(*parts.values()),
        remarks=(UNKNOWN_SCALE,) if outside else (),
        loader=None if own is None else LoaderBatches(own, steps, shift, scale),
    )


UNKNOWN_SCALE = (
    "images reach beyond [0, 1]: say by which mean and std they were normalized, else exported files do not know it"
)


def _classes(parts: Mapping[str, ImageSet], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes; raises InputError if images or labels of the parts do not fit each other."""
    shapes = {part: tuple(each.images.shape[1:]) for part, each in parts.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"the parts must have images of one shape, and have {shapes}")
    highest = max(int(each.labels.max()) for each in parts.values())
    named = tuple(classes) if classes is not None else tuple(str(label) for label in range(highest + 1))
    if highest >= len(named) or min(int(each.labels.min()) for each in parts.values()) < 0:
        raise InputError(f"labels must be in [0, {len(named)}), one for each class, and reach {highest}")
    return named


def renamed(data: DataSplits, identity: str) -> DataSplits:
    """The data with a checksum that follows from ``identity``, the name that a user gives to what a loader yields."""
    return replace(data, checksum=hashlib.sha256(f"identity {identity}".encode()).hexdigest())


def _is_pair(given: Images) -> bool:
    return isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(each, Tensor) for each in given)


def _read(part: str, given: Any) -> tuple[Tensor, Tensor, int]:
    """All images and labels of a part, on the CPU, and the number of batches; the same on every call if it can be."""
    if _is_pair(given):
        images, labels, batches = given[0].cpu(), given[1].cpu(), 0
    else:
        with torch.random.fork_rng(devices=[]):
            _seed(0)
            try:
                pairs = [(each.detach().cpu(), labels.detach().cpu()) for each, labels in given]
            except (TypeError, ValueError, AttributeError) as error:
                raise InputError(f"{part} must be a pair of tensors or yield (images, labels): {error}") from error
        if not pairs:
            raise InputError(f"{part} yields no batch")
        images, labels = (torch.cat(each) for each in zip(*pairs, strict=True))
        batches = len(pairs)
    if images.dim() != 4 or labels.dim() != 1 or len(images) != len(labels) or len(images) == 0:
        raise InputError(
            f"{part} must be images [n, c, h, w] and labels [n], and is {list(images.shape)} and {list(labels.shape)}"
        )
    return images, labels.to(torch.int64), batches


def _pixels(part: str, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels 0 … 255, uint8 if they are whole numbers, else float32."""
    if images.dtype == torch.uint8:
        return images
    if not bool(images.isfinite().all()):
        raise InputError(f"{part} has images that are not finite")
    shift, scale = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
    pixels = (images.to(torch.float32) * scale + shift) * 255
    whole = pixels.round()
    exact = float((pixels - whole).abs().max()) < ROUNDING and float(whole.min()) >= 0 and float(whole.max()) <= 255
    return whole.to(torch.uint8) if exact else pixels


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
