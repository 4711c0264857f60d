"""The German Traffic Sign Recognition Benchmark; its tracks of similar frames are never divided."""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.contracts import DataSplits, ImageSet
from src.data.decoding import decoded
from src.data.images import ImageData
from src.data.torchvision_sets import damaged, open_or_download

# Sizes of the two published training sets (torchvision downloads the smaller one) and of the test set.
TRAINING_IMAGES = (26_640, 39_209)
TEST_IMAGES = (12_630,)
SIGNS = (
    "speed limit 20",
    "speed limit 30",
    "speed limit 50",
    "speed limit 60",
    "speed limit 70",
    "speed limit 80",
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no passing",
    "no passing for trucks",
    "priority at next crossing",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "curve left",
    "curve right",
    "double curve",
    "bumpy road",
    "slippery road",
    "road narrows on the right",
    "road works",
    "traffic signals",
    "pedestrians",
    "children",
    "bicycles",
    "snow or ice",
    "wild animals",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "straight or right",
    "straight or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no passing",
    "end of no passing for trucks",
)


class Gtsrb(ImageData):
    """43 traffic signs; training images are frames of tracks, about 30 nearly identical frames each.

    All frames of a track are in the training split or all are in the validation split. The number before the
    underscore in a frame's file name is that of its track within its class.

    Args:
        side: Height and width of the images in pixels where ``height`` or ``width`` is None.
        settings: Arguments of ``ImageData``.

    Paper: Stallkamp et al. 2012, Neural Networks 32, 323-332.
    """

    name = "gtsrb"
    training_images: Container[int] = TRAINING_IMAGES
    test_images: Container[int] = TEST_IMAGES

    def __init__(self, *, side: int, **settings: Any) -> None:
        super().__init__(**settings)
        if side < 8:
            raise ValueError(f"side must be at least 8 pixels, and is {side}")
        self.side = side
        self._tracks: Tensor = torch.empty(0)

    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        from torchvision.datasets import GTSRB

        opened = open_or_download(self.root, "GTSRB", [partial(GTSRB, split="train"), partial(GTSRB, split="test")])
        parts = []
        for part in opened:
            samples: list[tuple[str, int]] = part._samples
            size = (self.height or self.side, self.width or self.side)
            images = decoded([Path(path) for path, _ in samples], size, "RGB", self.name, self.preparation)
            parts.append(ImageSet(images, torch.tensor([label for _, label in samples])))
        paths = [Path(path) for path, _ in opened[0]._samples]
        for path, label in zip(paths, parts[0].labels.tolist(), strict=True):
            if int(path.parent.name) != label:  # torchvision numbers the folders that it finds
                folder = self.root / "gtsrb" / "GTSRB"
                raise damaged("GTSRB", folder, f"the folder of a class before {path.parent.name} is missing")
        self._tracks = torch.tensor([int(path.parent.name) * 10_000 + int(path.stem.split("_")[0]) for path in paths])
        return parts[0], parts[1], SIGNS

    def load(self) -> DataSplits:
        """As ``ImageData.load``; also raises InputError if images are missing."""
        splits = super().load()
        found = (len(splits.train) + len(splits.validation), len(splits.test))
        if found[0] not in self.training_images or found[1] not in self.test_images:
            raise damaged(
                "GTSRB", self.root / "gtsrb" / "GTSRB", f"{found[0]:,} training and {found[1]:,} test images lie there"
            )
        return splits

    def groups(self, train: ImageSet) -> Tensor:
        return self._tracks
