"""Compiling the coders' loops with numba, once a machine."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

MATH: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
}  # no fastmath: every machine must compute the same bits


def _cache_folder() -> Path:
    """Where machine code is kept: a folder for the source that is compiled, since numba compares one file at a time.

    It lies beside the source. Where that cannot be written, the code is compiled anew by each process: a folder that
    somebody else can write could hold any code.
    """
    room = Path(__file__).parent
    files = (path.read_bytes() for path in sorted(room.glob("*.py")))
    source = b"".join(text for text in files if b"compiled" in text)
    try:
        (room / "__pycache__").mkdir(exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp())
    if not os.access(room / "__pycache__", os.W_OK):
        return Path(tempfile.mkdtemp())
    return room / "__pycache__" / f"numba-{hashlib.sha256(source).hexdigest()[:12]}"


numba.config.CACHE_DIR = str(_cache_folder())  # type: ignore[attr-defined]


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a small function into the loops that call it."""
    return numba.njit(**{**MATH, "cache": False})(function)


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that Python calls; the first call on a machine says on stderr that it compiled.

    Args:
        function: Takes numbers, arrays and named tuples of these.
    """
    dispatcher = numba.njit(**MATH)(function)

    def call(*arguments: Any) -> Any:
        before, start = sum(dispatcher.stats.cache_misses.values()), time.perf_counter()
        result = dispatcher(*arguments)
        if sum(dispatcher.stats.cache_misses.values()) > before:
            seconds = time.perf_counter() - start
            print(f"numba compiled {function.__name__} in {seconds:.1f} s, once on this machine", file=sys.stderr)
        return result

    call.__doc__ = function.__doc__
    call.__name__ = function.__name__
    return call
