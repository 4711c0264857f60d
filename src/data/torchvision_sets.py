"""The data sets that torchvision reads and downloads with checksums: MNIST, Fashion-MNIST, CIFAR-10 and -100."""

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

from src.contracts import ImageSet, InputError
from src.data.images import ImageData

# Where torchvision lays each set below its root, and how people write its name.
LAYOUT = {
    "MNIST": ("MNIST/raw", "MNIST"),
    "FashionMNIST": ("FashionMNIST/raw", "Fashion-MNIST"),
    "CIFAR10": ("cifar-10-batches-py", "CIFAR-10"),
    "CIFAR100": ("cifar-100-python", "CIFAR-100"),
    "GTSRB": ("gtsrb/GTSRB", "GTSRB"),
}


def open_or_download(root: Path, dataset: str, open_: Callable[..., Any]) -> Any:
    """Open a torchvision data set, downloading it first where it is missing.

    Args:
        root: Folder that holds, or will hold, the set.
        dataset: A key of ``LAYOUT``.
        open_: Called with the root and ``download``.

    Raises:
        InputError: It is there but damaged, or missing and cannot be downloaded. A failed download leaves nothing.
    """
    below, spoken = LAYOUT[dataset]
    if not (root / below).exists():
        _download(root, below, spoken, open_)
    try:
        return open_(root, download=False)
    except (RuntimeError, OSError, ValueError, EOFError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{spoken} in {root / below} is truncated or damaged ({reason.split('.')[0]}). "
            f"Remove that folder to have it downloaded anew, or put an intact copy there."
        ) from error


def _download(root: Path, below: str, spoken: str, open_: Callable[..., Any]) -> None:
    top = Path(below).parts[0]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{top}-") as unfinished:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                open_(Path(unfinished), download=True)
            shutil.move(str(Path(unfinished) / top), str(root / top))
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise InputError(
            f"{spoken} is not in {root} and could not be downloaded ({reason}). Three ways out: put {below} there, "
            f"set DNNC_DATA to the folder that holds it, or try the same job on drawn images with data=shapes."
        ) from error


def as_images(pixels: Any, labels: Sequence[int] | Tensor) -> ImageSet:
    """Arrays ``[n, h, w]`` or ``[n, h, w, c]`` to an ``ImageSet``."""
    images = torch.as_tensor(pixels)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return ImageSet(images.contiguous(), torch.as_tensor(labels, dtype=torch.int64))


class TorchvisionData(ImageData):
    """One of torchvision's in-memory classification sets.

    Args:
        dataset: ``MNIST``, ``FashionMNIST``, ``CIFAR10`` or ``CIFAR100``.
        settings: Those of ``ImageData``.
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
        parts = []
        for train in (True, False):
            part = open_or_download(self.root, self.dataset, partial(reader, train=train))
            parts.append(as_images(part.data, part.targets))
        return parts[0], parts[1], part.classes
