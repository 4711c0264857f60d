"""Many files of images, decoded into one tensor; many are found again in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from src.contracts import STRETCHED, InputError, MappedImages, Preparation, first_line
from src.data.mapped import limit_bytes, mapped_images
from src.data.pixels import Greys, may_be_deep, read, value_range
from src.data.resizing import resized
from src.files.checked import checksums
from src.files.writing import replacing

log = logging.getLogger(__name__)
CACHED = 2000  # least number of images whose decoding takes long enough to be worth a cache file


def decoded(
    paths: Sequence[Path], size: tuple[int, int], mode: str, name: str, how: Preparation = STRETCHED
) -> Tensor | MappedImages:
    """The result of ``decode_images``, from the user's cache folder if the files have the same content.

    Images that would take more than a share of the memory (``limit_bytes``) stay in the file of the cache, mapped.
    """
    import numpy as np

    large = len(paths) * size[0] * size[1] * len(mode) > limit_bytes()
    if len(paths) < CACHED and not large:
        return decode_images(paths, size, mode, name, how)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dnn-compression"
    with contextlib.suppress(OSError):  # no permission to write: the images are decoded again next time
        home.mkdir(parents=True, exist_ok=True)
    places = _digest(map(str, paths))
    try:
        contents = checksums({str(path): path for path in paths}, home / f"{name}-{places}.json")
    except OSError as error:  # decoding raises an error that names the file
        if large:
            raise InputError(f"{name}: {error.filename} cannot be read as an image ({first_line(error)})") from error
        return decode_images(paths, size, mode, name, how)
    key = f"{size} {mode} {_manner(how)}"
    cache = home / f"{name}-{_digest([key, *(contents[str(path)] for path in paths)])}.npy"
    if large:
        return mapped_images(cache, paths, size, mode, name, how)
    with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged: the images are decoded again
        return torch.from_numpy(np.load(cache))
    images = decode_images(paths, size, mode, name, how)
    try:
        with replacing(cache) as part, part.open("wb") as file:
            np.save(file, images.numpy())
    except OSError:  # no space, or no permission to write
        log.info("%s: decoded images are not cached in %s", name, home)
    return images


def _manner(how: Preparation) -> str:
    """The preparation as the names of cache files know it; what is as ever is left out, so that old files are found."""
    usual = asdict(STRETCHED)
    added = {key: value for key, value in asdict(how).items() if key not in ("interpolation", "crop")}
    more = {key: value for key, value in added.items() if value != usual[key]}
    return f"Resizing(interpolation={how.interpolation!r}, crop={how.crop!r}){more or ''}"


def _digest(lines: Iterable[str]) -> str:
    """16 hexadecimal digits that stand for lines of text."""
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()[:16]


def decode_images(
    paths: Sequence[Path], size: tuple[int, int], mode: str, name: str, how: Preparation = STRETCHED
) -> Tensor:
    """Decode image files and resize each image.

    Args:
        paths: The files, at least one.
        size: ``(height, width)`` in pixels.
        mode: Pillow's mode: ``L`` for grey, ``RGB`` for colour.
        name: Name of the data set, for the error message.
        how: How a file becomes pixels of that size.

    Returns:
        ``[n, channels, height, width]``, uint8.

    Raises:
        InputError: Files are no readable images; the message names the first and says how many there are.
    """
    import numpy as np

    pixels = np.empty((len(paths), size[0], size[1], len(mode)), np.uint8)

    def decode(at: int) -> str | None:
        try:
            image = resized(read(paths[at], mode, how), size, how)
            pixels[at] = np.asarray(image).reshape(pixels.shape[1:])
        except Exception as error:  # decoders of damaged files raise many types
            return f"{paths[at]} cannot be read as an image ({first_line(error)})"
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # of large images and of damaged EXIF data, both of which are read
        wrong = [reason for reason in pool.map(decode, range(len(paths)), chunksize=256) if reason is not None]
    if wrong:
        more = f", and so are {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{name}: {wrong[0]}{more}")
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def range_of(paths: Sequence[Path]) -> tuple[tuple[float, float] | None, list[str]]:
    """Measure the one range of grey values of all files with more than 8 bits.

    Files that declare 9 to 15 bits count only if there are no others: they have a range of their own
    (``Preparation.own_depth``). A file that cannot be read is left out; ``decode_images`` names it.

    Returns:
        The range, None if there is no such file or one value alone; and lines that say what was measured.
    """

    def found(path: Path) -> Greys | None:
        with contextlib.suppress(Exception):  # decoders of damaged files raise many types
            return value_range(path)
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")
        ranges = [each for each in pool.map(found, filter(may_be_deep, paths), chunksize=64) if each is not None]
    declared = [each for each in ranges if each.declared]
    measured = [each for each in ranges if not each.declared] or declared
    if not measured:
        return None, []
    low, high = min(each.low for each in measured), max(each.high for each in measured)
    if not low < high:
        return None, []
    lines = [f"grey files of more than 8 bits: {low:g} becomes black and {high:g} white (data.pixel_range)"]
    others = [each for each in declared if (each.low, each.high) != (low, high)]
    if others:
        depths = ", ".join(f"0 to {top:g}" for top in sorted({each.high for each in others}))
        lines.append(f"{len(others)} grey files declare how many bits they have and are scaled by these: {depths}")
    missing = sum(each.missing for each in measured)
    if missing:
        lines.append(f"{missing} grey files hold values beyond ±1e30 (no data): the range of greys leaves them out")
    return (low, high), lines
