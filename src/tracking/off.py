"""No tracking: results stand in the run's folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from src.contracts import Epoch, Row, RunDescription


class Off:
    """A tracker that keeps nothing."""

    def start(self, run: RunDescription) -> None:
        return None

    def epoch(self, stage: str, epoch: Epoch) -> None:
        return None

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        return None

    def finish(self, status: str) -> None:
        return None
