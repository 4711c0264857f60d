"""A user's own images, in one folder for each class."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from src.contracts import ImageSet, InputError
from src.data.images import ImageData
from src.files.checked import checksums
from src.files.writing import replacing

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif"}
MODES = {1: "L", 3: "RGB"}
CACHED = 2000  # least number of images whose decoding takes long enough to be worth a cache file


def decoded(paths: Sequence[Path], size: tuple[int, int], mode: str, name: str) -> Tensor:
    """The result of ``decode_images``, from the user's cache folder if the files have the same content."""
    import numpy as np

    if len(paths) < CACHED:
        return decode_images(paths, size, mode, name)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dnn-compression"
    with contextlib.suppress(OSError):  # no permission to write: the images are decoded again next time
        home.mkdir(parents=True, exist_ok=True)
    places = _digest(map(str, paths))
    try:
        contents = checksums({str(path): path for path in paths}, home / f"{name}-{places}.json")
    except OSError:  # decoding raises an error that names the file
        return decode_images(paths, size, mode, name)
    cache = home / f"{name}-{_digest([f'{size} {mode}', *(contents[str(path)] for path in paths)])}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged: the images are decoded again
        return torch.from_numpy(np.load(cache))
    images = decode_images(paths, size, mode, name)
    try:
        with replacing(cache) as part, part.open("wb") as file:
            np.save(file, images.numpy())
    except OSError:  # no space, or no permission to write
        log.info("%s: decoded images are not cached in %s", name, home)
    return images


def _digest(lines: Iterable[str]) -> str:
    """16 hexadecimal digits that stand for lines of text."""
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()[:16]


def decode_images(paths: Sequence[Path], size: tuple[int, int], mode: str, name: str) -> Tensor:
    """Decode image files and resize each image, bilinear and without cropping.

    Args:
        paths: The files, at least one.
        size: ``(height, width)`` in pixels.
        mode: Pillow's mode: ``L`` for grey, ``RGB`` for colour.
        name: Name of the data set, for the error message.

    Returns:
        ``[n, channels, height, width]``, uint8.

    Raises:
        InputError: A file is no readable image; the message names it.
    """
    import numpy as np
    from PIL import Image

    pixels = np.empty((len(paths), size[0], size[1], len(mode)), np.uint8)

    def decode(at: int) -> None:
        try:
            with Image.open(paths[at]) as opened:
                image = _eight_bits(opened).convert(mode)
                if image.size != (size[1], size[0]):
                    image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
                pixels[at] = np.asarray(image).reshape(pixels.shape[1:])
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{name}: {paths[at]} cannot be read as an image ({error})") from error

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(len(paths)), chunksize=256):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a grey image of 16 bits to 8 bits; Pillow would clip it to white."""
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    import numpy as np

    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))


class ImageFolder(ImageData):
    """Images in ``root/train/<class>`` and ``root/test/<class>``; without these two, ``root/<class>`` is split.

    Args:
        test_share: Share of the images in the test set if there is no ``test`` folder, in (0, 1).
        side: Images are resized to ``side`` x ``side`` pixels, bilinear and without cropping.
        channels: 1 (grey) or 3 (colour); images of the other kind are converted.
        settings: Arguments of ``ImageData``.
    """

    name = "image_folder"

    def __init__(self, *, test_share: float, side: int, channels: int, **settings: Any) -> None:
        super().__init__(**settings)
        if channels not in MODES:
            raise ValueError(f"channels must be 1 or 3, and is {channels}")
        if not 0 < test_share < 1:
            raise ValueError(f"test_share must be in (0, 1), and is {test_share}")
        if side < 8:
            raise ValueError(f"side must be at least 8 pixels, and is {side}")
        self.test_share, self.side, self.channels = test_share, side, channels

    def read(self) -> tuple[ImageSet, ImageSet, Sequence[str]]:
        if not self.root.is_dir():
            raise InputError(
                f"data.root: there is no folder {self.root}; it should hold a folder of images for each class"
            )
        divided = (self.root / "train").is_dir() and (self.root / "test").is_dir()
        top = self.root / "train" if divided else self.root
        classes = sorted(folder.name for folder in top.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        if len(classes) < 2:
            raise InputError(
                f"data.root: {top} holds {len(classes)} folders of images; at least two classes are needed"
            )
        train = self._read(top, classes)
        if divided:
            unknown = sorted({f.name for f in (self.root / "test").iterdir() if f.is_dir()} - set(classes))
            if unknown:
                raise InputError(
                    f"data.root: {self.root / 'test'} has classes that train does not have: {', '.join(unknown)}"
                )
            return train, self._read(self.root / "test", classes), classes
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.split_seed))
        tests = max(1, round(self.test_share * len(train)))
        return train.select(order[tests:].sort().values), train.select(order[:tests].sort().values), classes

    def _read(self, top: Path, classes: Sequence[str]) -> ImageSet:
        """The images of the class folders in ``top``."""
        paths: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = sorted(path for path in (top / name).rglob("*") if path.suffix.lower() in ENDINGS)
            paths += found
            labels += [label] * len(found)
        if not paths:
            raise InputError(f"data.root: no image lies in the class folders of {top} ({', '.join(sorted(ENDINGS))})")
        return ImageSet(decoded(paths, (self.side, self.side), MODES[self.channels], self.name), torch.tensor(labels))
