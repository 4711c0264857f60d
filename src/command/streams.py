"""Output that every terminal can show: a sign that its encoding lacks is written with signs that it has."""

from __future__ import annotations

import codecs
import sys
import unicodedata

HANDLER = "dnnc_plain"
PLAIN = {"±": "+/-", "…": "...", "×": "x", "–": "-", "—": "-", "→": "->", "≥": ">=", "≤": "<=", "µ": "u"}


def write_anywhere() -> None:
    """Let ``print`` never fail on a sign that the terminal's encoding lacks (``PYTHONIOENCODING=ascii``)."""
    codecs.register_error(HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream of a test or notebook may lack it
            stream.reconfigure(errors=HANDLER)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """``é`` becomes ``e``, ``±`` ``+/-``, and what has no likeness ``?``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(map(_likeness, signs)), error.end


def _likeness(sign: str) -> str:
    letters = PLAIN.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters or "?"
