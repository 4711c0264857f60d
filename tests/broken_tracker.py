"""A tracking store that takes everything but the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.contracts import Row, RunDescription, TrackedRun, Tracker, TrackingError


class RunWithoutRows(TrackedRun):
    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        raise TrackingError("the disk of the server is full")


class BreaksAtTheEnd(Tracker):
    def start(self, run: RunDescription) -> TrackedRun:
        return RunWithoutRows()
