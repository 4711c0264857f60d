"""Images with labels, split into their three parts, and what loads and varies them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
FITS = ("letterbox", "pad")
CHUNK = 4 * 2**20  # pixels that are looked at together where a whole set is read


class MappedImages:
    """Images in a file that is mapped into memory: only those that are looked at are read, and none is kept.

    It stands where a tensor ``[n, channels, height, width]`` of uint8 stands. An index gives a tensor; ``select`` gives
    mapped images again, so that a set can be split without a copy.

    Args:
        path: The file, in NumPy's format: ``[m, channels, height, width]``, uint8.
        file: Its images.
        rows: Which of them these are, ``[n]``, int64.
    """

    FEW = 64 * 2**20  # bytes of images that ``select`` reads into memory

    def __init__(self, path: Path, file: Tensor, rows: Tensor) -> None:
        self.path, self.file, self.rows = path, file, rows

    @classmethod
    def open(cls, path: Path, rows: Tensor | None = None) -> MappedImages:
        """Map the file; None takes all of its images."""
        import numpy as np
        import torch

        file = torch.from_numpy(np.load(path, mmap_mode="c"))  # a write would change a copy, never the file
        return cls(path, file, torch.arange(len(file)) if rows is None else rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the file itself."""
        return MappedImages.open, (self.path, self.rows)

    @property
    def size_bytes(self) -> int:
        """Bytes that the images would take in memory."""
        return math.prod(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, channels, height, width)``."""
        return (len(self.rows), *self.file.shape[1:])

    @property
    def dtype(self) -> Any:
        """The type of the pixels."""
        return self.file.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """Read an image, or a batch of images."""
        rows = self.rows[index]
        return self.file[rows] if rows.dim() == 0 else self.file.index_select(0, rows)

    def select(self, indices: Tensor | slice) -> MappedImages | Tensor:
        """The images at ``indices``, in that order; a tensor if they are few."""
        chosen = MappedImages(self.path, self.file, self.rows[indices])
        return chosen[:] if chosen.size_bytes <= self.FEW else chosen


@dataclass(frozen=True)
class ImageSet:
    """Images and labels, in memory or in a file that is mapped into it.

    Attributes:
        images: ``[n, channels, height, width]``, uint8.
        labels: ``[n]``, int64, each in ``[0, classes)``.
    """

    images: Tensor | MappedImages
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor | slice) -> ImageSet:
        """The images and labels at ``indices`` (``[k]``, int64), in that order."""
        images = self.images
        chosen = images.select(indices) if isinstance(images, MappedImages) else images[indices]
        return ImageSet(chosen, self.labels[indices])

    def chunks(self) -> Iterator[Tensor]:
        """The images in order, some MB at a time."""
        return (self.images[places] for places in self.places())

    def places(self) -> list[slice]:
        """Where the images of each of ``chunks`` stand."""
        size = max(1, CHUNK // max(1, math.prod(self.images.shape[1:])))
        return [slice(start, start + size) for start in range(0, len(self), size)]


class Augmentation(Protocol):
    """A random change of training images, on whole batches."""

    def __call__(self, images: Tensor, generator: Any) -> Tensor:
        """Change ``images`` (``[n, c, h, w]``, uint8 or float) and keep their shape."""
        ...


class Mixing(Protocol):
    """A random mixture of training images and of their labels, e.g. mixup."""

    def __call__(self, images: Tensor, labels: Tensor, classes: int, generator: Any) -> tuple[Tensor, Tensor]:
        """Mix ``images`` (``[n, c, h, w]``) and ``labels`` (``[n]``); the new labels are shares ``[n, classes]``."""
        ...


@dataclass(frozen=True)
class Preparation:
    """How the file of an image becomes pixels of a network's size; training, ``predict`` and bundles follow it.

    A file is turned upright by its EXIF orientation in any case.

    Attributes:
        interpolation: The filter of the resizing, one of ``INTERPOLATIONS``.
        crop: The shorter side is first resized to the longest side of the size over ``crop``, in (0, 1], then the
            middle is cut out, as torchvision and timm do; None cuts nothing off.
        fit: ``letterbox`` resizes the whole image until it just fits and centres it on the background; ``pad`` does the
            same but never enlarges an image; None stretches, unless ``crop`` is given.
        background: Grey, 0 to 255, behind transparent pixels and around a centred image; None ignores transparency,
            and surrounds with 0.
        pixel_range: The values of a grey file of more than 8 bits that become 0 and 255; None takes the bit depth that
            the file declares.
        own_depth: Whether a grey file that declares 9 to 15 bits is scaled by these, whatever ``pixel_range`` says;
            true where the range was measured on the files that declare none.

    Raises:
        ValueError: A value is out of its range.
    """

    interpolation: str = "bilinear"
    crop: float | None = None
    fit: str | None = None
    background: int | None = None
    pixel_range: tuple[float, float] | None = None
    own_depth: bool = False

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, and is {self.interpolation}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(f"crop must be in (0, 1] or null, and is {self.crop}")
        if self.fit is not None and self.fit not in FITS:
            raise ValueError(
                f"fit must be {', '.join(FITS)} or null (stretched, or cut by data.crop), and is {self.fit}"
            )
        if self.fit is not None and self.crop is not None:
            raise ValueError(f"fit={self.fit} keeps the whole image and crop={self.crop} cuts it: give one of them")
        if self.background is not None and not 0 <= self.background <= 255:
            raise ValueError(f"background must be a grey from 0 to 255, and is {self.background}")
        if self.pixel_range is not None and not self.pixel_range[0] < self.pixel_range[1]:
            raise ValueError(f"pixel_range must rise from black to white, and is {list(self.pixel_range)}")

    @property
    def manner(self) -> str:
        """How an image is brought to the size, in a few words."""
        if self.crop is not None:
            return f"{self.interpolation}, cropped to {self.crop:.3g} of the shorter side"
        return f"{self.interpolation}, {'stretched' if self.fit is None else self.fit}"


STRETCHED = Preparation()  # what it was before there was a choice


@dataclass(frozen=True)
class InputContract:
    """The preprocessing of images that a pretrained network expects.

    Attributes:
        size: ``(height, width)`` of the input.
        interpolation: How images are resized: ``bilinear``, ``bicubic``, ``nearest``, ``lanczos``, …
        crop: Side of the middle square that is kept, as a share of the resized image's shorter side, in (0, 1]; None if
            images are stretched to the size and nothing is cut off.
        mean, std: One number for each channel, of pixels scaled to [0, 1]; None if they are not known.
    """

    size: tuple[int, int]
    interpolation: str
    crop: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @classmethod
    def of(cls, model: object) -> InputContract | None:
        """The contract that the builder of a pretrained network set as ``input_contract``; None if there is none."""
        contract = getattr(model, "input_contract", None)
        return contract if isinstance(contract, cls) else None

    def departure(self, splits: DataSplits) -> str | None:
        """A line that says how the preprocessing of the data differs; None if it does not."""
        _, height, width = splits.image_shape
        known = Preparation(self.interpolation, self.crop)
        found = splits.preparation
        if (self.size, known) == ((height, width), Preparation(found.interpolation, found.crop, found.fit)):
            return None
        return (
            f"the pretrained weights expect images of {self.size[0]}x{self.size[1]}, {known.manner}; "
            f"{splits.name} has {height}x{width}, {found.manner}"
        )


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
        preparation: How files of images became these.
        mixing: Applied to training batches and their labels after ``augmentation``; None mixes nothing.
        remarks: Lines on what was read and how, and on what is wrong with it, for a person.
        loader: A user's own training batches, drawn anew each epoch; None makes them of ``train``.
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
    preparation: Preparation = STRETCHED
    mixing: Mixing | None = None
    remarks: tuple[str, ...] = ()
    loader: TrainingLoader | None = None

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


class TrainingLoader(Protocol):
    """What makes the training batches of a user's own loader."""

    def __call__(self, seed: int, device: str) -> EpochBatches:
        """The batches; what is random in them follows from ``seed`` and the epoch."""
        ...


@runtime_checkable
class StaticBatches(Protocol):
    """Epoch batches that are also made in place, from buffers that never move: a GPU can replay how they are made.

    Attributes:
        batch_size: Images in a full batch.
        rest: Images in the last batch if it is not full; 0 if all are.
        generators: What is drawn from while a batch is made; the same objects all the time.
        capturable: Whether the device has all images.
    """

    capturable: bool
    batch_size: int
    generators: list[Any]

    @property
    def rest(self) -> int: ...

    def begin(self) -> None:
        """Go to the first batch of the chosen epoch."""
        ...

    def take(self, size: int) -> tuple[Tensor, Tensor]:
        """The next batch, of ``size`` images, as the iteration over the epoch gives it; the host reads no number."""
        ...

    def __len__(self) -> int: ...
