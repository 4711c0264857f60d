"""What a tracking store does not have yet: a journal in each run's folder, and a list of these beside the stages."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from src.contracts import (
    DataDescription,
    Epoch,
    InputError,
    Registration,
    Row,
    RunDescription,
    Tracker,
    TrackingError,
    TrialRecord,
)
from src.files.owner import has_owner
from src.files.records import read_record, write_record
from src.tracking.event_file import EventFile
from src.tracking.surveys import read_parent

log = logging.getLogger(__name__)
UNSENT = ".unsent"  # the list, a folder beside the stages; a journal is called ``.unsent-KEY.jsonl``
RESULTS = "results.json"  # of a run whose results are complete


@dataclass(frozen=True)
class StoreName:
    """How a tracking store is found again.

    Attributes:
        name: Name of the ``tracking`` config.
        uri: Address of the store.
        tags: More tags of each run.
    """

    name: str
    uri: str
    tags: Mapping[str, str]


class Journal:
    """What a run, or the parent of a survey or search, was to log; it is there until the store has all of it.

    Args:
        path: Path of the journal, in the folder of the run, survey or search.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent
        self.file = EventFile(path, shared=False)

    @classmethod
    def begin(cls, folder: Path, artifacts: Path, store: StoreName, run: RunDescription | None = None) -> Journal:
        """Begin a journal, and name it in the list beside the stages.

        Args:
            folder: Folder of the run, survey or search.
            artifacts: Folder of the stages.
            store: The store that is to have what the journal holds.
            run: Description of the run; None for the parent of a survey or search.
        """
        folder = folder.resolve()
        # Members that begin at once share the journal of their parent.
        journal = cls(folder / f"{UNSENT}-{run.key if run is not None else 'parent'}.jsonl")
        described = None
        if run is not None:
            survey = None if run.survey is None else os.path.relpath(run.survey.resolve(), folder)
            described = {**asdict(replace(run, folder=Path(), survey=None)), "survey": survey}
            del described["folder"]
        listed = artifacts.expanduser().resolve() / UNSENT
        journal.note(
            "begun", store=asdict(store), host=platform.node(), list=os.path.relpath(listed, folder), run=described
        )
        with contextlib.suppress(OSError):  # artifacts that cannot be written: ``sync FOLDER`` still finds it
            listed.mkdir(parents=True, exist_ok=True)
            write_record(
                journal._entry(listed), {"folder": os.path.relpath(folder, listed), "journal": journal.path.name}
            )
        return journal

    def note(self, event: str, **fields: Any) -> None:
        """Add an event; a TrackingError if the folder cannot be written."""
        self.file.append(event, **fields)

    def remove(self) -> None:
        """Remove the journal and its name in the list: the store has all of it."""
        with contextlib.suppress(OSError, TrackingError):
            if self.events:
                self._entry(Path(os.path.normpath(self.folder / self.events[0]["list"]))).unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)

    def _entry(self, listed: Path) -> Path:
        """The file of the list that names the journal; the same wherever both are moved."""
        place = os.path.relpath(self.path, listed)
        return listed / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Every event when first asked; none if the command was killed before the first was complete."""
        return self.file.events()

    @property
    def is_run(self) -> bool:
        """Whether it is of a run, not of the parent of a survey or search."""
        return bool(self.events) and self.events[0]["run"] is not None

    @property
    def store(self) -> StoreName:
        """The store that is to have what the journal holds."""
        return StoreName(**self.events[0]["store"])

    @property
    def survey(self) -> Path | None:
        """The folder of the survey or search that the run is a member of; None for a single run, and for a parent."""
        survey = self.events[0]["run"]["survey"] if self.is_run else None
        return Path(os.path.normpath(self.folder / survey)) if survey is not None else None

    @property
    def alive(self) -> bool:
        """Whether the command that writes the journal may still be at work."""
        ended = not self.events or any(event["event"] == "finish" for event in self.events)
        elsewhere = not ended and self.events[0]["host"] != platform.node()
        return elsewhere or has_owner(self.folder) or (self.survey is not None and has_owner(self.survey))

    def send(self, tracker: Tracker) -> None:
        """Log all of it, close the run by what became of it, and remove the journal.

        Raises:
            TrackingError: The store refuses; the journal stays.
        """
        if self.is_run:
            self._send_run(tracker)
        elif self.events and read_parent(self.folder, self.store.uri) is not None:
            self._send_search(tracker)
        self.remove()

    def _send_run(self, tracker: Tracker) -> None:
        described = dict(self.events[0]["run"])
        described |= {"data": DataDescription(**described["data"]), "folder": self.folder, "survey": self.survey}
        run = tracker.start(RunDescription(**described))
        if self.survey is not None:
            begin_parent(self.survey, self.folder / self.events[0]["list"] / os.pardir, self.store)
        for event in self._all("epoch"):
            run.epoch(event["stage"], Epoch(**event["epoch"]))
        rows = [Row.of(row) for event in self._all("rows") for row in event["rows"]]
        complete = (self.folder / RESULTS).exists() and all((self.folder / row.artifact).exists() for row in rows)
        if rows and complete:
            run.rows(rows, self.folder)
        run.finish("FINISHED" if rows and complete else self._status(), self.events[-1]["time"])

    def _send_search(self, tracker: Tracker) -> None:
        search = tracker.search(self.folder)
        records = [TrialRecord(**event["record"]) for event in self._all("trial")]
        if records:
            search.trials(records)
        for event in self._all("register"):
            chosen = dict(event["chosen"])
            chosen |= {"row": Row.of(chosen["row"]), "rows": [Row.of(row) for row in chosen["rows"]]}
            search.register(Registration(**chosen))
        figures: Mapping[str, float] = next((event["figures"] for event in self._all("finish")), {})
        search.finish(self._status(), figures, self.events[-1]["time"])

    def _status(self) -> str:
        """How the command closed it; KILLED if the command was killed before it could."""
        return str(next((event["status"] for event in reversed(list(self._all("finish")))), "KILLED"))

    def _all(self, kind: str) -> Iterator[dict[str, Any]]:
        return (event for event in self.events if event["event"] == kind)


def begin_parent(survey: Path, artifacts: Path, store: StoreName) -> Journal:
    """The journal of the parent of a survey or search, which is begun if there is none."""
    there = journals_in(survey)
    return there[0] if there else Journal.begin(survey, artifacts, store)


def journals_in(folder: Path) -> list[Journal]:
    """The journals in a folder, but not those of its members."""
    return [Journal(path) for path in sorted(folder.glob(f"{UNSENT}-*.jsonl"))]


def journals_of(artifacts: Path) -> tuple[list[Journal], list[Path]]:
    """The journals that the list beside the stages names, runs before their parents; and the folders that are gone.

    What names a folder that is gone, or holds no journal any more, is removed from the list.
    """
    found: list[Journal] = []
    parents: list[Journal] = []
    gone: list[Path] = []
    for name in sorted((artifacts.expanduser().resolve() / UNSENT).glob("*.json")):
        try:
            record = read_record(name)
            folder = Path(os.path.normpath(name.parent / record["folder"]))
            journal = Journal(folder / record["journal"])
            if journal.path.is_file():
                (found if journal.is_run else parents).append(journal)
                continue
            if not folder.is_dir():
                gone.append(folder)
        except (InputError, TrackingError, KeyError, TypeError) as error:  # a damaged disk
            log.warning("%s cannot be read: %s", name, error)
        with contextlib.suppress(OSError):
            name.unlink()
    return [*found, *parents], gone
