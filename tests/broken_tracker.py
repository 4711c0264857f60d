"""A tracking store that takes everything but the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.contracts import Row, TrackingError
from src.tracking.off import Off


class BreaksAtTheEnd(Off):
    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        raise TrackingError("the disk of the server is full")
