"""The German Traffic Sign Recognition Benchmark, split by track."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.contracts import ImageSet
from src.data.image_folder import decoded
from src.data.images import ImageData
from src.data.torchvision_sets import damaged, open_or_download


class Gtsrb(ImageData):
    """43 traffic signs; training frames come in tracks of about 30 near-identical ones.

    A track (the number before the underscore of a frame's file name, within its class) is one group, so that no
    frame of a validating track is trained on.

    Args:
        side: Images are resized whole to ``side`` x ``side`` pixels, bilinear.
        settings: Those of ``ImageData``.

    Paper: Stallkamp et al. 2012, Neural Networks 32, 323-332.
    """

    name = "gtsrb"

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
            images = decoded([Path(path) for path, _ in samples], (self.side, self.side), "RGB", self.name)
            parts.append(ImageSet(images, torch.tensor([label for _, label in samples])))
        paths = [Path(path) for path, _ in opened[0]._samples]
        for path, label in zip(paths, parts[0].labels.tolist(), strict=True):
            if int(path.parent.name) != label:  # torchvision numbers the folders that it finds
                folder = self.root / "gtsrb" / "GTSRB"
                raise damaged("GTSRB", folder, f"the folder of a class before {path.parent.name} is missing")
        self._tracks = torch.tensor([int(path.parent.name) * 10_000 + int(path.stem.split("_")[0]) for path in paths])
        return parts[0], parts[1], [f"sign_{label:02d}" for label in range(43)]

    def groups(self, train: ImageSet) -> Tensor:
        return self._tracks
