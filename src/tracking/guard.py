"""Failed tracking must not cost a result: what the store does not take is kept, and sent later."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from src.contracts import (
    Epoch,
    LeftOpenError,
    Refused,
    Registration,
    Row,
    RunDescription,
    TrackedRun,
    TrackedSearch,
    Tracker,
    TrackingError,
    TrialRecord,
)
from src.tracking.surveys import read_parent
from src.tracking.unsent import Journal, StoreName, begin_parent, journals_in

log = logging.getLogger(__name__)
T = TypeVar("T")


class Guard:
    """Calls a tracking store until a call fails; then keeps the reason and skips all further calls.

    Args:
        journal: Keeps what is logged until the store has all of it; None if nothing is kept.

    Attributes:
        failure: Why tracking stopped; None if it has not.
        sent: Whether everything was given to the store, whatever it did with it.
    """

    def __init__(self, journal: Journal | None) -> None:
        self.failure: str | None = None
        self.sent = True
        self.journal = journal

    def failed(self, error: TrackingError) -> None:
        """Keep the reason of the first failure; skip all further calls."""
        if self.failure is None:
            self.failure = str(error)
            log.error("tracking failed: %s", error)

    def note(self, event: str, **fields: Any) -> None:
        """Keep an event in the journal, also after a failure of the store."""
        journal = self.journal
        if journal is not None:
            self.always(lambda: journal.note(event, **fields), otherwise=None)

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

    def close(self, finish: Callable[..., None], status: str, figures: Mapping[str, float] | None) -> None:
        """Close what the store has; the journal goes if the store has everything."""
        ended = time.time()
        self.note("finish", status=status, time=ended, **({} if figures is None else {"figures": figures}))
        if self.failure is not None and status == "FINISHED":
            status = "FAILED"  # until the rest is sent
        self.always(finish, status, *([] if figures is None else [figures]), ended, otherwise=None)
        if self.journal is not None and self.failure is None and self.sent:
            self.journal.remove()


class GuardedRun(Guard, TrackedRun):
    """A run whose store may fail.

    Opening a run is not guarded: an address that nothing answers is found before any work.

    Args:
        run: The open run.
        journal: Keeps what is logged until the store has all of it; None if nothing is kept.
    """

    def __init__(self, run: TrackedRun, journal: Journal | None = None) -> None:
        super().__init__(journal)
        self.run, self.notes = run, run.notes
        self.run_id = run.run_id

    @classmethod
    def start(cls, tracker: Tracker, run: RunDescription, artifacts: Path, name: str) -> GuardedRun:
        """Open a run whose journal stands in its folder.

        Args:
            tracker: The tracking store.
            run: Description of the run.
            artifacts: Folder of the stages.
            name: Name of the ``tracking`` config.

        Raises:
            TrackingError: The store does not answer.
        """
        if tracker.uri is None:
            return cls(tracker.start(run))
        store = StoreName(name, tracker.uri, tracker.tags)
        journal = Journal.begin(run.folder, artifacts, store, run)
        try:
            opened = cls(tracker.start(run), journal)
            if run.survey is not None:
                begin_parent(run.survey, artifacts, store)
        except LeftOpenError:
            if journal is not None:
                journal.note("finish", status="FAILED")
            raise
        except Exception:
            if journal is not None:
                journal.remove()
            raise
        return opened

    def epoch(self, stage: str, epoch: Epoch) -> None:
        self.note("epoch", stage=stage, epoch=asdict(epoch))
        self.attempt(self.run.epoch, stage, epoch, otherwise=None)

    def measured(self, rows: Sequence[Row], refused: Sequence[Refused] = ()) -> None:
        """Keep the rows, and those of refused files, in the journal, before they are written to ``results.json``."""
        self.sent = False
        if refused:
            self.note("refused", refused=[asdict(each) for each in refused])
        self.note("rows", rows=[asdict(row) for row in rows])

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        self.attempt(self.run.rows, rows, folder, otherwise=None)
        self.sent = True

    def refused(self, refused: Sequence[Refused]) -> None:
        self.attempt(self.run.refused, refused, otherwise=None)

    def finish(self, status: str, ended: float | None = None) -> None:
        """Close the run, after a failure too: a tracker may hold threads."""
        self.close(self.run.finish, status, None)


class GuardedSearch(Guard, TrackedSearch):
    """A search whose store may fail.

    Args:
        search: The search as the tracker returns it.
        journal: Keeps what is logged until the store has all of it; None if nothing is kept.
    """

    def __init__(self, search: TrackedSearch, journal: Journal | None = None) -> None:
        super().__init__(journal)
        self.search = search
        self._noted: set[int] = set()  # numbers of the trials that the journal has

    @classmethod
    def of(cls, tracker: Tracker, folder: Path, artifacts: Path) -> GuardedSearch:
        """The search in ``folder``, whose journal its baseline's run has begun, and the list in ``artifacts`` names."""
        journals = journals_in(folder, artifacts) if tracker.uri is not None else []
        return cls(tracker.search(folder), journals[0] if journals else None)

    def trials(self, records: Sequence[TrialRecord]) -> None:
        for record in records:
            if record.number not in self._noted:
                self.note("trial", record=asdict(record))
                self._noted.add(record.number)
        self.attempt(self.search.trials, records, otherwise=None)

    def register(self, chosen: Registration) -> list[str]:
        nothing: list[str] = []
        self.note("register", chosen=asdict(chosen))
        return self.attempt(self.search.register, chosen, otherwise=nothing)

    def finish(self, status: str, figures: Mapping[str, float], ended: float | None = None) -> None:
        """Close the search, after a failure too: the store may answer again."""
        self.close(self.search.finish, status, figures)


def finish_survey(
    tracker: Tracker, folder: Path, status: str, artifacts: Path, figures: Mapping[str, float] | None = None
) -> None:
    """Log the files of a survey and close its parent run, if a member has opened one in this store.

    Args:
        tracker: The tracking store.
        folder: Folder of the survey.
        status: FINISHED, FAILED or KILLED.
        artifacts: Folder of the stages, beside which is noted what is unsent.
        figures: The figures that the survey is known by; none if None.

    Raises:
        TrackingError: The store refuses; what it lacks is kept.
    """
    if tracker.uri is None:
        return
    if read_parent(folder, tracker.uri) is None:
        for journal in journals_in(folder, artifacts):
            journal.remove()
        return
    survey = GuardedSearch.of(tracker, folder, artifacts)
    survey.finish(status, figures or {})
    if survey.failure is not None:
        raise TrackingError(survey.failure)
