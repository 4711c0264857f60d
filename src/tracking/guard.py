"""Failed tracking must not cost a result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from src.contracts import Epoch, Registration, Row, TrackedRun, TrackedSearch, TrackingError, TrialRecord

log = logging.getLogger(__name__)
T = TypeVar("T")


class Guard:
    """Calls a tracking store until a call fails; then keeps the reason and skips all further calls.

    Attributes:
        failure: Why tracking stopped; None if it has not.
    """

    def __init__(self) -> None:
        self.failure: str | None = None

    def failed(self, error: TrackingError) -> None:
        """Keep the reason of the first failure; skip all further calls."""
        if self.failure is None:
            self.failure = str(error)
            log.error("tracking failed: %s", error)

    def attempt(self, call: Callable[..., T], *arguments: Any, otherwise: T) -> T:
        """Return what ``call`` returns; ``otherwise`` if it fails or an earlier call failed."""
        return self.always(call, *arguments, otherwise=otherwise) if self.failure is None else otherwise

    def always(self, call: Callable[..., T], *arguments: Any, otherwise: T) -> T:
        """The same, but also after an earlier failure: a run or search is closed if the store can still do that."""
        try:
            return call(*arguments)
        except TrackingError as error:
            self.failed(error)
            return otherwise


class GuardedRun(Guard, TrackedRun):
    """A run whose store may fail.

    Opening a run is not guarded: an address that nothing answers is found before any work.

    Args:
        run: The open run.
    """

    def __init__(self, run: TrackedRun) -> None:
        super().__init__()
        self.run = run
        self.run_id = run.run_id

    def epoch(self, stage: str, epoch: Epoch) -> None:
        self.attempt(self.run.epoch, stage, epoch, otherwise=None)

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        self.attempt(self.run.rows, rows, folder, otherwise=None)

    def finish(self, status: str) -> None:
        """Close the run, after a failure too: a tracker may hold threads."""
        self.always(self.run.finish, status, otherwise=None)


class GuardedSearch(Guard, TrackedSearch):
    """A search whose store may fail.

    Args:
        search: The search as the tracker returns it.
    """

    def __init__(self, search: TrackedSearch) -> None:
        super().__init__()
        self.search = search

    def trials(self, records: Sequence[TrialRecord]) -> None:
        self.attempt(self.search.trials, records, otherwise=None)

    def register(self, chosen: Registration) -> list[str]:
        nothing: list[str] = []
        return self.attempt(self.search.register, chosen, otherwise=nothing)

    def finish(self, status: str, figures: Mapping[str, float]) -> None:
        """Close the search, after a failure too: the store may answer again."""
        self.always(self.search.finish, status, figures, otherwise=None)
