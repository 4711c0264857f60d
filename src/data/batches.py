"""Batches of normalized images, in an order that follows from seed and epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from src.contracts import Augmentation, DataSplits, EpochBatches, ImageSet, MappedImages, Mixing

AHEAD = 2  # batches that are read from a file before they are needed
COPIED = 1024  # images that are copied at once from a file to a GPU


def mixed_seed(seed: int, epoch: int) -> int:
    """A generator seed for a pair of numbers; the multiplier keeps the seeds of neighbouring pairs apart."""
    return (seed * 1_000_003 + epoch * 7_919 + 17) % (2**63)


class TensorBatches:
    """Iterate over an image set in batches of normalized float32 images and their labels.

    Args:
        images: The image set; all of it is moved to ``device``, but images that are mapped from a file and would take
            more than half of its free memory.
        batch_size: Number of images in a batch, at least 1.
        mean, std: One number for each channel, of pixels in [0, 1].
        augmentation: Random change of the images before normalization; None leaves them as they are.
        shuffle_seed: Seed of the order, which also depends on the epoch; None keeps the order of the set.
        device: Device on which batches are made, e.g. ``cpu`` or ``cuda``.
        drop_last: Whether a last batch that is not full is left out.
        mixing: Random mixture of images and labels after ``augmentation``; None mixes nothing.
        classes: Number of classes, which ``mixing`` needs.

    Yields:
        ``(images [b, c, h, w] float32, labels [b] int64)``; mixed labels are shares ``[b, classes]``, float32.

    Attributes:
        generators: The generator of ``begin`` and ``take``, which make the same batches in place.
        capturable: Whether a batch can be made in place; False if the images stay in a file.
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
        mixing: Mixing | None = None,
        classes: int = 0,
    ) -> None:
        self.images = _placed(images.images, device)
        self.capturable = isinstance(self.images, Tensor)
        self.labels = images.labels.to(device)
        self.batch_size = min(batch_size, len(images))
        self.augmentation = augmentation
        self.mixing, self.classes = mixing, classes
        self.shuffle_seed = shuffle_seed
        self.drop_last = drop_last
        self.epoch = 0
        self.generators = [torch.Generator(device)]
        self._order = torch.arange(len(images), device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._shift = torch.tensor(mean, device=device).view(1, -1, 1, 1) * 255
        self._scale = 1 / (torch.tensor(std, device=device).view(1, -1, 1, 1) * 255)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next iteration uses."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size + (self.rest > 0)

    @property
    def rest(self) -> int:
        """Images in the last batch if it is not full; 0 if all are."""
        return 0 if self.drop_last else len(self.labels) % self.batch_size

    @property
    def repeats(self) -> bool:
        """Whether every epoch has the same batches."""
        return self.shuffle_seed is None and self.capturable

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.shuffle_seed is None:
            order = None
        else:
            generator = torch.Generator(device=self.labels.device)
            order = self._shuffled(generator, self.shuffle_seed)
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        places = [
            slice(at, at + self.batch_size) if order is None else order[at : at + self.batch_size] for at in starts
        ]
        for chosen, images in zip(places, self._read(places), strict=True):
            labels = self.labels[chosen]
            if order is not None:
                if self.augmentation is not None:
                    images = self.augmentation(images, generator)
                if self.mixing is not None:
                    images, labels = self.mixing(images, labels, self.classes, generator)
            yield self.normalize(images), labels

    def _read(self, places: Sequence[slice | Tensor]) -> Iterator[Tensor]:
        """The images of each batch; those that are in a file are read while the batch before is worked on."""
        if isinstance(self.images, Tensor):
            yield from (self.images[chosen] for chosen in places)
            return
        mapped, device = self.images, self.labels.device
        with ThreadPoolExecutor(1) as reader:
            ahead: deque[Future[Tensor]] = deque()
            for chosen in places:
                rows = chosen if isinstance(chosen, slice) else chosen.cpu()
                ahead.append(reader.submit(mapped.__getitem__, rows))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result().to(device)
            while ahead:
                yield ahead.popleft().result().to(device)

    def _shuffled(self, generator: torch.Generator, seed: int) -> Tensor:
        """The order of the epoch, ``[n]``; ``generator`` is seeded anew, and its next draws augment the images."""
        generator.manual_seed(mixed_seed(seed, self.epoch))
        return torch.randperm(len(self.labels), generator=generator, device=self.labels.device)

    def begin(self) -> None:
        """Go to the first batch of the chosen epoch, for ``take``."""
        self._place.zero_()
        if self.shuffle_seed is not None:
            self._order.copy_(self._shuffled(self.generators[0], self.shuffle_seed))

    def take(self, size: int) -> tuple[Tensor, Tensor]:
        """The next batch, of ``size`` images, as the iteration gives it; where it begins is read on the device."""
        places = torch.arange(size, device=self.labels.device) + self._place
        self._place += size
        chosen = self._order.index_select(0, places)
        assert isinstance(self.images, Tensor)  # else it is not capturable
        images, labels = self.images.index_select(0, chosen), self.labels.index_select(0, chosen)
        if self.augmentation is not None and self.shuffle_seed is not None:
            images = self.augmentation(images, self.generators[0])
        if self.mixing is not None and self.shuffle_seed is not None:
            images, labels = self.mixing(images, labels, self.classes, self.generators[0])
        return self.normalize(images), labels

    def normalize(self, images: Tensor) -> Tensor:
        """Turn pixels 0 … 255 into float32 of mean 0 and deviation 1 for each channel."""
        return (images.to(torch.float32) - self._shift).mul_(self._scale)


def _placed(images: Tensor | MappedImages, device: str) -> Tensor | MappedImages:
    """The images on ``device``; mapped ones stay in their file on the CPU, and if they take most of a GPU's memory."""
    if isinstance(images, Tensor):
        return images.to(device)
    if device == "cpu" or images.size_bytes > torch.cuda.mem_get_info()[0] // 2:
        return images
    placed = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), COPIED):
        placed[start : start + COPIED] = images[start : start + COPIED].to(device)
    return placed


def training_batches(splits: DataSplits, batch_size: int, *, seed: int, device: str = "cpu") -> EpochBatches:
    """Full batches of the training split, shuffled and augmented by (seed, epoch); a user's loader has its own size."""
    if splits.loader is not None:
        return splits.loader(seed, device)
    return TensorBatches(
        splits.train,
        batch_size,
        mean=splits.mean,
        std=splits.std,
        augmentation=splits.augmentation,
        shuffle_seed=seed,
        device=device,
        drop_last=True,
        mixing=splits.mixing,
        classes=len(splits.classes),
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
