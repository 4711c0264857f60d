"""Image files decoded once into a file that is mapped into memory, for sets that are too large to be held in it."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.contracts import InputError, MappedImages, Preparation, first_line
from src.data.pixels import read
from src.data.resizing import resized
from src.files.writing import write_text

log = logging.getLogger(__name__)
SHARE = 8  # images of more than this part of the memory stay in a file
LIMIT = "DNNC_IMAGE_BYTES"  # environment variable: bytes of images that are held in memory, in place of that part
TOGETHER = 64  # images that a worker decodes at once
FLUSHED = 256 * 2**20  # bytes after which what is decoded is written to the disk, and noted
CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may use


def limit_bytes() -> int:
    """The most bytes of decoded images that are held in memory.

    Raises:
        InputError: The environment variable holds no number.
    """
    given = os.environ.get(LIMIT)
    if given is not None:
        if not given.isdecimal():
            raise InputError(f"{LIMIT} must be a whole number of bytes, and is {given}")
        return int(given)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        memory = min(memory, int(CGROUP.read_text()))
    return memory // SHARE


def mapped_images(
    cache: Path, paths: Sequence[Path], size: tuple[int, int], mode: str, name: str, how: Preparation
) -> MappedImages:
    """Map the decoded images of ``cache``; if there is no such file, decode them into it first.

    Processes decode, as many as torch has threads. One command decodes at a time, and others wait for it. If it is
    killed, the next one goes on where the last written images end.

    Args:
        cache: The file, in NumPy's format; its name follows from the content of the image files.
        paths: The files.
        size: ``(height, width)`` in pixels.
        mode: Pillow's mode: ``L`` for grey, ``RGB`` for colour.
        name: Name of the data set, for error messages.
        how: How a file becomes pixels of that size.

    Raises:
        InputError: Files are no readable images, or the disk has no space for them.
    """
    from filelock import FileLock

    shape = (len(paths), len(mode), *size)
    try:
        with FileLock(cache.with_name(f"{cache.name}.lock"), mode=0o666):
            if not _is_whole(cache, shape):
                _decode_into(cache, shape, paths, mode, name, how)
    except OSError as error:
        raise InputError(
            f"{name}: the decoded images take {math.prod(shape) / 1e9:.1f} GB, more than is held in memory ({LIMIT}), "
            f"and cannot be written to {cache.parent} ({first_line(error)}): XDG_CACHE_HOME=… names another place"
        ) from error
    except BrokenProcessPool as error:
        raise InputError(
            f"{name}: a process that decodes images was killed; the same command goes on where it was"
        ) from error
    return MappedImages.open(cache)


def _is_whole(cache: Path, shape: tuple[int, ...]) -> bool:
    try:
        found = np.load(cache, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # missing or damaged: the images are decoded again
        return False
    return found.shape == shape and found.dtype == np.uint8


def _decode_into(
    cache: Path, shape: tuple[int, ...], paths: Sequence[Path], mode: str, name: str, how: Preparation
) -> None:
    """Decode into a part file, which becomes ``cache`` when all of it is on the disk."""
    part, notes = cache.with_name(f"{cache.name}.part"), cache.with_name(f"{cache.name}.part.json")
    written = _done(part, notes, shape)
    if written == 0:
        notes.unlink(missing_ok=True)  # of another part file: they would say that zeros are images
        _allocate(part, shape)
    log.info("%s: decoding %d images into %s, from image %d on", name, len(paths), cache, written)
    wrong: list[str] = []
    each = math.prod(shape[1:])
    with part.open("rb") as file:
        for done, reasons in _decoded_by_processes(part, paths, written, shape[2:], mode, how):
            wrong += reasons
            if not wrong and (done - written) * each >= FLUSHED:
                os.fsync(file.fileno())
                write_text(notes, json.dumps({"done": done}))
                written = done
        os.fsync(file.fileno())
    if wrong:
        notes.unlink(missing_ok=True)
        part.unlink()
        more = f", and so are {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{name}: {wrong[0]}{more}")
    part.replace(cache)
    notes.unlink(missing_ok=True)


def _done(part: Path, notes: Path, shape: tuple[int, ...]) -> int:
    """How many images an interrupted decoding left on the disk; 0 if there was none, or its files are damaged."""
    if not _is_whole(part, shape):
        return 0
    try:
        return int(json.loads(notes.read_text(encoding="utf-8"))["done"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _allocate(part: Path, shape: tuple[int, ...]) -> None:
    """Create the part file with all its space, for a process that maps a file is killed where the disk is full."""
    part.unlink(missing_ok=True)
    np.lib.format.open_memmap(part, "w+", np.uint8, shape)
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with part.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
        except OSError:
            part.unlink()
            raise


def _decoded_by_processes(
    part: Path, paths: Sequence[Path], start: int, size: tuple[int, ...], mode: str, how: Preparation
) -> Iterator[tuple[int, list[str]]]:
    """Decode images from ``start`` on into ``part``; yield how many are done, in order, and what went wrong."""
    starts = range(start, len(paths), TOGETHER)
    kind = "fork" if sys.platform == "linux" else "spawn"
    context: Any = multiprocessing.get_context(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork beside threads: the workers use Pillow and NumPy alone
        pool = ProcessPoolExecutor(
            torch.get_num_threads(), context, _begin_worker, (os.getpid(), part, size, mode, how)
        )
        try:
            groups = (paths[at : at + TOGETHER] for at in starts)
            for at, reasons in zip(starts, pool.map(_decode_group, starts, groups), strict=True):
                yield min(at + TOGETHER, len(paths)), reasons
        finally:
            pool.shutdown(cancel_futures=True)  # after an interrupt, what has not begun never does


_worker: dict[str, Any] = {}  # of a worker process: the part file, mapped, and how images are read


def _begin_worker(parent: int, part: Path, size: tuple[int, ...], mode: str, how: Preparation) -> None:
    """Map the part file in a worker process, which ends with the process that started it."""

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # of large images and of damaged EXIF data, both of which are read
    _worker.update(pixels=np.lib.format.open_memmap(part, "r+"), size=size, mode=mode, how=how)


def _decode_group(start: int, paths: Sequence[Path]) -> list[str]:
    """Decode files into the places from ``start`` on; return a line for each file that cannot be read."""
    wrong = []
    pixels, size, mode, how = (_worker[key] for key in ("pixels", "size", "mode", "how"))
    for at, path in enumerate(paths, start):
        try:
            image = np.asarray(resized(read(path, mode, how), size, how))
            pixels[at] = image.reshape(*size, len(mode)).transpose(2, 0, 1)
        except Exception as error:  # decoders of damaged files raise many types
            wrong.append(f"{path} cannot be read as an image ({first_line(error)})")
    return wrong
