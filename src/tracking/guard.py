"""Tracking that fails must not cost a result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.contracts import Epoch, Row, RunDescription, Tracker, TrackingError

log = logging.getLogger(__name__)


class Guard:
    """Passes calls on until one fails; from then on keeps the reason and calls no more.

    Opening the run is not guarded: an address that nothing answers is found out before any work.

    Args:
        tracker: The real one.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.failure: str | None = None

    @property
    def run_id(self) -> str | None:
        """What the store calls the run; None where there is no store, or one that does not say."""
        return getattr(self.tracker, "run_id", None)

    def start(self, run: RunDescription) -> None:
        self.tracker.start(run)

    def epoch(self, stage: str, epoch: Epoch) -> None:
        self._try(self.tracker.epoch, stage, epoch)

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        self._try(self.tracker.rows, rows, folder)

    def finish(self, status: str) -> None:
        """Always tried, since a tracker may hold threads."""
        failure, self.failure = self.failure, None
        self._try(self.tracker.finish, status)
        self.failure = failure or self.failure

    def _try(self, call: Callable[..., None], *arguments: Any) -> None:
        if self.failure is not None:
            return
        try:
            call(*arguments)
        except TrackingError as error:
            self.failure = str(error)
            log.error("tracking failed: %s", error)
