"""Data sets that torchvision downloads and reads: MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.contracts import ImageSet, InputError, first_line
from src.data.images import ImageData

# Folder of each set below torchvision's root, and the name that people write.
LAYOUT = {
    "MNIST": ("MNIST/raw", "MNIST"),
    "FashionMNIST": ("FashionMNIST/raw", "Fashion-MNIST"),
    "CIFAR10": ("cifar-10-batches-py", "CIFAR-10"),
    "CIFAR100": ("cifar-100-python", "CIFAR-100"),
    "GTSRB": ("gtsrb/GTSRB", "GTSRB"),
}


def open_or_download(root: Path, dataset: str, parts: Sequence[Callable[..., Any]]) -> list[Any]:
    """Open the parts of a torchvision data set; if it is missing, download all of it first.

    Args:
        root: Folder that holds, or will hold, the set.
        dataset: Name of the set, a key of ``LAYOUT``.
        parts: Functions that open a part each, given the root and ``download``.

    Raises:
        InputError: The set is damaged, or it is missing and cannot be downloaded; a failed download leaves no file.
    """
    below, title = LAYOUT[dataset]
    if not (root / below).exists():
        _download(root, below, title, parts)
    try:
        return [part(root, download=False) for part in parts]
    except Exception as error:  # torchvision's parsers raise many types on a damaged file
        raise damaged(title, root / below, first_line(error)) from error


def damaged(title: str, folder: Path, reason: str) -> InputError:
    """The error for a set whose files are there and are not as published."""
    return InputError(
        f"{title} in {folder} is truncated or damaged ({reason.split('.')[0]}). "
        f"Remove that folder so that it is downloaded again, or put an intact copy there."
    )


def _download(root: Path, below: str, title: str, parts: Sequence[Callable[..., Any]]) -> None:
    """Download a set into a folder beside its own, and rename that when all of it is there."""
    top, root_is_new = Path(below).parts[0], not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{top}-") as unfinished:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                for part in parts:
                    part(Path(unfinished), download=True)
            shutil.move(str(Path(unfinished) / top), str(root / top))
    except (RuntimeError, OSError) as error:
        if root_is_new and root.exists():
            root.rmdir()
        reason = first_line(error).rstrip(":")
        raise InputError(
            f"{title} is not in {root} and could not be downloaded ({reason}). Three ways out: put {below} there, "
            f"set DNNC_DATA to the folder that holds it, or run the same on drawn images with data=shapes."
        ) from error


def as_images(pixels: Any, labels: Sequence[int] | Tensor) -> ImageSet:
    """Turn an array ``[n, h, w]`` or ``[n, h, w, c]`` and its labels into an ``ImageSet``."""
    images = torch.as_tensor(pixels)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return ImageSet(images.contiguous(), torch.as_tensor(labels, dtype=torch.int64))


class TorchvisionData(ImageData):
    """One of torchvision's classification sets.

    Args:
        dataset: Name of the set: ``MNIST``, ``FashionMNIST``, ``CIFAR10`` or ``CIFAR100``.
        settings: Arguments of ``ImageData``.
    """

    def __init__(self, *, dataset: str, **settings: Any) -> None:
        super().__init__(**settings)
        known = [name for name in LAYOUT if name != "GTSRB"]
        if dataset not in known:
            raise ValueError(f"dataset must be one of {', '.join(known)}, and is {dataset}")
        self.dataset = dataset
        self.name = dataset.lower()

    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        import torchvision.datasets

        reader = getattr(torchvision.datasets, self.dataset)
        parts = open_or_download(self.root, self.dataset, [partial(reader, train=True), partial(reader, train=False)])
        below, title = LAYOUT[self.dataset]
        try:
            train, test = (as_images(part.data, part.targets) for part in parts)
        except ValueError as error:
            raise damaged(title, self.root / below, first_line(error)) from error
        return train, test, parts[0].classes
