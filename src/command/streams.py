"""Output that every terminal can show: a sign that its encoding lacks is written with signs that it has."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

HANDLER = "dnnc_plain"
PLAIN = {"±": "+/-", "…": "...", "×": "x", "–": "-", "—": "-", "→": "->", "≥": ">=", "≤": "<=", "µ": "u"}


def write_anywhere() -> None:
    """Let ``print`` never fail on a sign that the terminal's encoding lacks (``PYTHONIOENCODING=ascii``)."""
    codecs.register_error(HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream of a test or notebook may lack it
            stream.reconfigure(errors=HANDLER)


@contextmanager
def stdout_alone() -> Iterator[TextIO]:
    """Yield stdout, and send all else that the block prints there, also from C++ and other processes, to stderr."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with os.fdopen(os.dup(saved), "w", encoding="utf-8") as alone:
            yield alone
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """``é`` becomes ``e``, ``±`` ``+/-``, and what has no likeness ``?``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(map(_likeness, signs)), error.end


def _likeness(sign: str) -> str:
    letters = PLAIN.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters or "?"
