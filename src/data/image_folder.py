"""A user's own images, in one folder for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.contracts import DataSplits, ImageSet, InputError, MappedImages
from src.data import findings
from src.data.decoding import decoded, range_of
from src.data.folders import TEST, TRAIN, VALIDATION, Found, find
from src.data.images import ImageData
from src.data.mapped import LIMIT, SHARE, limit_bytes
from src.data.pixels import MODES
from src.data.splitting import Looks, stratified


class ImageFolder(ImageData):
    """Images in ``root/<split>/<class>``, or in ``root/<class>`` without splits; a split that is missing is carved.

    Each class gives its share to a carved split, and images of equal pixels stay in one split.

    Args:
        root: The folder; ``DNNC_DATA`` does not replace it.
        test_share: Share of the images in the test set if there is no folder of one, in (0, 1).
        side: Height and width in pixels where ``height`` or ``width`` is None.
        channels: 1 (grey) or 3 (colour); images of the other kind are converted.
        pixel_range: Values that become black and white in grey files of more than 8 bits; None measures one range for
            all files of the training set but those that declare 9 to 15 bits, which have their own.
        settings: Arguments of ``ImageData``.
    """

    name = "image_folder"

    def __init__(
        self,
        *,
        root: str,
        test_share: float,
        side: int,
        channels: int,
        height: int | None = None,
        width: int | None = None,
        pixel_range: Sequence[float] | None = None,
        **settings: Any,
    ) -> None:
        if channels not in MODES:
            raise ValueError(f"channels must be 1 or 3, and is {channels}")
        if not 0 < test_share < 1:
            raise ValueError(f"test_share must be in (0, 1), and is {test_share}")
        if side < 8:
            raise ValueError(f"side must be at least 8 pixels, and is {side}")
        super().__init__(root=root, height=height or side, width=width or side, **settings)
        if pixel_range is not None and len(pixel_range) != 2:
            raise ValueError(f"pixel_range must be two values, of black and of white, and is {list(pixel_range)}")
        self.root = Path(root).expanduser()
        self.test_share, self.channels, self.size = test_share, channels, (height or side, width or side)
        if pixel_range is not None:
            self.preparation = replace(self.preparation, pixel_range=(float(pixel_range[0]), float(pixel_range[1])))
        self._found = Found((), {}, ())
        self._notes: list[str] = []
        self._places: dict[str, Sequence[int]] = {}  # where the images of each split stand in the files that were read

    @property
    def files(self) -> Mapping[str, Sequence[Path]]:
        """The file of each image of ``train``, ``validation`` and ``test``, once the data is loaded."""
        every = [path for paths, _ in self._found.parts.values() for path in paths]
        return {part: [every[at] for at in places] for part, places in self._places.items()}

    def load(self) -> DataSplits:
        """As ``ImageData.load``; also raises InputError if most images have one colour in all their pixels."""
        splits = self.inspect()
        flat = self._looks.constant
        if 2 * int(flat.sum()) > len(flat):
            raise InputError(
                f"data.root: {int(flat.sum())} of {len(flat)} images have one colour in all their pixels: "
                f"python -m src.describe {self.root} shows them (data.background is for "
                f"transparent files, data.pixel_range for deep greys)"
            )
        return splits

    def inspect(self) -> DataSplits:
        """Load the data with remarks on all that is wrong with it, whatever that is."""
        splits = super().load()
        looks = {part: self._looks.select(torch.as_tensor(places)) for part, places in self._places.items()}
        seen = findings.of_pixels(splits, looks, self.files, self.root)
        return replace(splits, remarks=(*self._found.remarks, *self._notes, *splits.remarks, *seen))

    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        self._found = found = find(self.root)
        self._notes = []
        if self.preparation.pixel_range is None:
            measured, lines = range_of(found.parts[TRAIN][0])
            self.preparation = replace(self.preparation, pixel_range=measured, own_depth=measured is not None)
            self._notes += lines
        every = self._decoded()
        self._looks = Looks.at(every)
        if TEST in found.parts:
            count = len(every) - len(found.parts[TEST][0])
            self._places = {TEST: range(count, len(every))}
            self._kept = torch.arange(count)
            return every.select(slice(0, count)), every.select(slice(count, None)), found.classes
        train = torch.arange(len(found.parts[TRAIN][0]))
        groups = self._looks.select(train).copies()
        rest, tests = stratified(every.labels[train], groups, self.test_share, self.split_seed, least=3)
        self._check_carved(TEST, tests, groups)
        self._places = {TEST: tests.tolist()}
        self._kept = torch.cat([rest, torch.arange(len(train), len(every))])
        self._notes.append(
            f"no folder of test images: {len(tests)} of {len(train)} images are set aside (data.test_share)"
        )
        return every.select(self._kept), every.select(tests), found.classes

    def divided(self, published: ImageSet) -> tuple[Tensor, Tensor]:
        """The folder's own validation images, or a share of each class."""
        given = len(self._found.parts[VALIDATION][0]) if VALIDATION in self._found.parts else 0
        if given:
            train, validation = torch.arange(len(published)).split([len(published) - given, given])
        else:
            groups = self._looks.select(self._kept).copies()
            train, validation = stratified(published.labels, groups, self.validation_share, self.split_seed, least=2)
            self._check_carved(VALIDATION, validation, groups)
            self._notes.append(
                f"no folder of validation images: {len(validation)} of {len(published)} images are set aside "
                f"(data.validation_share)"
            )
        self._places |= {TRAIN: self._kept[train].tolist(), VALIDATION: self._kept[validation].tolist()}
        return train, validation

    def _check_carved(self, part: str, chosen: Tensor, groups: Tensor) -> None:
        """Refuse an empty split with its cause: too few images, of which too few differ."""
        if not len(chosen):
            raise InputError(
                f"data.root: no image is left for the {part} set, for equal images stay in one split: {len(groups)} "
                f"images, {len(groups.unique())} different at {self.size[0]}x{self.size[1]}; each class needs three "
                f"that differ, or {self.root} its own {part}/"
            )

    def checksummed(self, published: ImageSet, test: ImageSet) -> tuple[ImageSet, ...]:
        """Training, validation and test images as the folder has them, so that a moved border is other data."""
        if VALIDATION not in self._found.parts:
            return published, test
        given = len(self._found.parts[VALIDATION][0])
        at = torch.arange(len(published))
        return published.select(at[:-given]), published.select(at[-given:]), test

    def _decoded(self) -> ImageSet:
        """All images of the folder: of training, validation and test."""
        paths = [path for paths, _ in self._found.parts.values() for path in paths]
        labels = [label for _, labels in self._found.parts.values() for label in labels]
        pixels = decoded(paths, self.size, MODES[self.channels], self.name, self.preparation)
        if isinstance(pixels, MappedImages):
            self._notes.append(
                f"{len(pixels):,} images of {pixels.size_bytes / 1e9:.1f} GB stay in a file of the cache: up to "
                f"{limit_bytes() / 1e9:.1f} GB would be held in memory (a part in {SHARE} of it, or {LIMIT})"
            )
        return ImageSet(pixels, torch.tensor(labels))
