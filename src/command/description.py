"""A data set in words and in one picture, before anything is trained on it."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from src.command.composition import build, composed
from src.contracts import DataSplits
from src.data.contact_sheet import contact_sheet
from src.data.image_folder import ImageFolder
from src.data.pixels import Header, header
from src.display.tables import aligned

FOLDER = Path("outputs") / "describe"


def describe(data: str, settings: Sequence[str], sheet: Path | None) -> list[str]:
    """Read a data set as a run would, and write a contact sheet of it.

    Args:
        data: A folder of images, or an override such as ``data=cifar10``.
        settings: Overrides of the data's settings.
        sheet: File of the contact sheet; None chooses one below ``FOLDER``.

    Returns:
        Lines: images of each class and split, the kinds and sizes of the files, and what is wrong.

    Raises:
        InputError: It is no data set, or a file cannot be read.
        OSError: The sheet cannot be written.
    """
    chosen = [data] if "=" in data else ["data=image_folder", f"data.root={_quoted(data)}"]
    resolved, _ = composed([*chosen, *settings])
    source = build(resolved, "data")
    splits: DataSplits = source.inspect() if isinstance(source, ImageFolder) else source.load()
    path = sheet or FOLDER / f"{source.root.resolve().name if isinstance(source, ImageFolder) else splits.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(splits).save(path)
    lines = [*_read(splits), *_counts(splits), *(_files(source) if isinstance(source, ImageFolder) else [])]
    wrong = [f"  {remark}" for remark in splits.remarks] or ["  nothing"]
    return [*lines, "Remarks:", *wrong, f"What the network will see: {path}"]


def _quoted(folder: str) -> str:
    """A path as Hydra's grammar takes it."""
    escaped = folder.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _read(splits: DataSplits) -> list[str]:
    """How images become inputs."""
    how = splits.preparation
    more = [f"background {how.background}"] if how.background is not None else []
    if how.pixel_range is not None:
        more.append(f"greys of {how.pixel_range[0]:g} to {how.pixel_range[1]:g}")
    shape = "x".join(map(str, splits.image_shape))
    return [f"{splits.name}: inputs of {shape}, {', '.join([how.manner, *more])}; checksum {splits.checksum[:12]}"]


def _counts(splits: DataSplits) -> list[str]:
    """The table of the images of each class in each split."""
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    counts = [part.labels.bincount(minlength=len(splits.classes)).tolist() for part in parts.values()]
    rows = [[name, *map(str, each)] for name, each in zip(splits.classes, zip(*counts, strict=True), strict=True)]
    return aligned([["class", *parts], *rows, ["all", *(str(len(part)) for part in parts.values())]], left=1)


def _files(source: ImageFolder) -> list[str]:
    """The kinds and sizes of the files."""

    def of(path: Path) -> Header | None:
        with contextlib.suppress(Exception):  # it was read a moment ago; decoders raise many types
            return header(path)
        return None

    paths = [path for each in source.files.values() for path in each]
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # as when they were read
        headers = [found for found in pool.map(of, paths, chunksize=64) if found is not None]
    sizes = sorted((found.size for found in headers), key=lambda size: size[0] * size[1])
    small, middle, large = (f"{sizes[at][0]}x{sizes[at][1]}" for at in (0, len(sizes) // 2, -1))
    endings = Counter(path.suffix.lower() for path in paths)
    modes = Counter(found.mode for found in headers)
    odd = sum(width != height for width, height in sizes)
    return [
        f"Files: {_tally(endings)}; Pillow's modes {_tally(modes)}",
        f"Sizes (width x height): {small} to {large}, median {middle}; {odd} of {len(sizes)} are not square",
        f"Turned upright by EXIF: {sum(found.turned for found in headers)}; "
        f"with transparency: {sum(found.transparent for found in headers)}",
    ]


def _tally(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
