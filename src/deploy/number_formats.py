"""The number formats in which a target may store float weights."""

from __future__ import annotations

STORED = ("float32", "float16")


def checked_storage(stored: str) -> str:
    """``stored`` itself; raises ValueError if float weights cannot be stored so."""
    if stored not in STORED:
        raise ValueError(f"stored must be one of {', '.join(STORED)}, and is {stored}")
    return stored


def halves(stored: str) -> tuple[str, ...]:
    """``("float16",)`` if float weights are stored so, else nothing, as ``Precision.stores`` takes it."""
    return () if stored == "float32" else (stored,)
