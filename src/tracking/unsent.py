"""What a tracking store does not have yet: a journal in each run's folder, and a list of these beside the stages.

The list is the user's own: it alone says which store gets what a journal holds. The journal lies in a folder of
results, which may come from anybody: it is data, and a journal that is not on the list is sent nowhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from src.contracts import (
    DataDescription,
    Epoch,
    InputError,
    Refused,
    Registration,
    Row,
    RunDescription,
    Tracker,
    TrackingError,
    TrialRecord,
)
from src.device import schema
from src.device.schema import LINE, optional
from src.files.inside import is_inside
from src.files.owner import has_owner
from src.files.records import read_record, write_record
from src.tracking.event_file import EventFile
from src.tracking.journal_lines import FILE_NAME, TEXTS, fields_of, read_journal
from src.tracking.surveys import read_parent

log = logging.getLogger(__name__)
UNSENT = ".unsent"  # the list, a folder beside the stages; a journal is called ``.unsent-KEY.jsonl``
RESULTS = "results.json"  # of a run whose results are complete
BOOT = Path("/proc/sys/kernel/random/boot_id")
DEAD_AFTER_SECONDS = 7 * 24 * 3600  # without a line; what was begun on another machine has then ended
PLACE = {"folder": LINE, "journal": FILE_NAME}
ENTRY = {
    **PLACE,
    "store": {"name": LINE, "uri": LINE, "tags": TEXTS},
    "survey": optional(LINE),
    "host": LINE,
    "boot": optional(LINE),
}


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


@dataclass(frozen=True)
class Listed:
    """What the list says of a journal.

    Attributes:
        store: The store that is to have what the journal holds.
        survey: The folder of the survey or search that the run is a member of; None for a single run, and for a parent.
        host: Name of the machine that began it.
        boot: Identifies the start of that machine's kernel; None if the system has no such name.
    """

    store: StoreName
    survey: Path | None
    host: str = field(default_factory=lambda: _this_machine()[0])
    boot: str | None = field(default_factory=lambda: _this_machine()[1])

    def write(self, entry: Path, journal: Path) -> None:
        """Write it to the list; all paths are relative, so that the project may be moved."""
        entry.parent.mkdir(parents=True, exist_ok=True)
        place = {"folder": os.path.relpath(journal.parent, entry.parent), "journal": journal.name}
        survey = None if self.survey is None else os.path.relpath(self.survey, entry.parent)
        write_record(entry, {**place, **asdict(self), "survey": survey})

    @classmethod
    def read(cls, record: Mapping[str, Any], entry: Path) -> Listed | None:
        """From an entry of the list; None if an earlier version wrote it, which named no store there."""
        if "store" not in record:
            return None
        schema.check(record, ENTRY)
        survey = record["survey"]
        return cls(
            StoreName(**{key: record["store"][key] for key in ("name", "uri", "tags")}),
            None if survey is None else Path(os.path.normpath(entry.parent / survey)),
            record["host"],
            record["boot"],
        )


class Journal:
    """What a run, or the parent of a survey or search, was to log; it is there until the store has all of it.

    Args:
        path: Path of the journal, in the folder of the run, survey or search.
        artifacts: Folder of the stages, which holds the list.
        listed: What the list says of it.
    """

    def __init__(self, path: Path, artifacts: Path, listed: Listed) -> None:
        self.path, self.folder, self.artifacts, self.listed = path, path.parent, artifacts, listed
        self.store, self.survey = listed.store, listed.survey
        self.file = EventFile(path, shared=False)

    @classmethod
    def begin(
        cls, folder: Path, artifacts: Path, store: StoreName, run: RunDescription | None = None
    ) -> Journal | None:
        """Name a journal in the list beside the stages, and begin it.

        Args:
            folder: Folder of the run, survey or search.
            artifacts: Folder of the stages.
            store: The store that is to have what the journal holds.
            run: Description of the run; None for the parent of a survey or search.

        Returns:
            The journal; None for a parent if the list cannot be written: nothing would ever find it.
        """
        folder = folder.resolve()
        # Members that begin at once share the journal of their parent.
        path = folder / f"{UNSENT}-{run.key if run is not None else 'parent'}.jsonl"
        survey = None if run is None or run.survey is None else run.survey.resolve()
        entry, listed = _entry(path, artifacts), Listed(store, survey)
        if path.is_symlink() or (path.exists() and not entry.exists()):  # it came with the folder
            path.rename(path.with_name(f"{UNSENT}-{uuid.uuid4().hex}.jsonl"))
        try:
            listed.write(entry, path)
        except OSError as error:
            if run is None:
                return None
            log.warning(
                f"{entry.parent} cannot be written ({error.strerror or error}): should {store.uri} fail, send this run "
                f"by {how_to_send(folder, store.name)}"
            )
        journal = cls(path, artifacts, listed)
        described = None if run is None else asdict(replace(run, folder=Path(), survey=None))
        for key in ("folder", "survey"):
            (described or {}).pop(key, None)
        journal.note("begun", run=described)
        return journal

    def note(self, event: str, **fields: Any) -> None:
        """Add an event; a TrackingError if the folder cannot be written."""
        self.file.append(event, **fields)

    def remove(self) -> None:
        """Remove the journal and its name in the list: the store has all of it."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            _entry(self.path, self.artifacts).unlink(missing_ok=True)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Every event when first asked; none if the command was killed before the first was complete.

        Raises:
            TrackingError: The journal holds something else than a run.
        """
        return read_journal(self.file)

    @property
    def is_run(self) -> bool:
        """Whether it is of a run, not of the parent of a survey or search."""
        return bool(self.events) and self.events[0]["run"] is not None

    @property
    def elsewhere(self) -> bool:
        """Whether a command on another machine, whose locks do not count here, may still be writing it."""
        host, boot = _this_machine()
        if not self.events or self.listed.host == host or (boot is not None and self.listed.boot == boot):
            return False
        ended = any(event["event"] == "finish" for event in self.events)
        return not ended and time.time() - self.path.stat().st_mtime < DEAD_AFTER_SECONDS

    @property
    def alive(self) -> bool:
        """Whether a command of this machine that writes it is at work."""
        return has_owner(self.folder) or (self.survey is not None and has_owner(self.survey))

    def send(self, tracker: Tracker) -> list[str]:
        """Log all of it, close the run with its final status, and remove the journal.

        Returns:
            A line for each model that was changed after it was measured, and is not logged.

        Raises:
            TrackingError: The store refuses; the journal stays.
        """
        lines: list[str] = []
        if self.is_run:
            lines = self._send_run(tracker)
        elif self.events and read_parent(self.folder, self.store.uri) is not None:
            self._send_search(tracker)
        self.remove()
        return lines

    def _send_run(self, tracker: Tracker) -> list[str]:
        record = self.events[0]["run"]
        data = fields_of(DataDescription, record["data"])
        run = tracker.start(fields_of(RunDescription, record, data=data, folder=self.folder, survey=self.survey))
        if self.survey is not None:
            begin_parent(self.survey, self.artifacts, self.store)
        for event in self._all("epoch"):
            run.epoch(event["stage"], fields_of(Epoch, event["epoch"]))
        rows = [Row.of(row) for event in self._all("rows") for row in event["rows"]]
        files = [self.folder / RESULTS, *(self.folder / row.artifact for row in rows)]
        complete = bool(rows) and all(is_inside(file, self.folder) for file in files)
        changed = [row for row in rows if complete and not _is_measured(self.folder / row.artifact, row.sha256)]
        if complete and changed != rows:
            run.rows([row for row in rows if row not in changed], self.folder)
        refused = [fields_of(Refused, each) for event in self._all("refused") for each in event["refused"]]
        if refused:
            run.refused(refused)
        run.finish("FINISHED" if complete else self._status(), self.events[-1]["time"])
        reason = "was changed after it was measured (another checksum): its run is sent without this model"
        return [f"{self.folder / row.artifact} {reason}" for row in changed]

    def _send_search(self, tracker: Tracker) -> None:
        search = tracker.search(self.folder)
        records = [fields_of(TrialRecord, event["record"]) for event in self._all("trial")]
        if records:
            search.trials(records)
        for event in self._all("register"):
            chosen = event["chosen"]
            rows = [Row.of(row) for row in chosen["rows"]]
            search.register(fields_of(Registration, chosen, row=Row.of(chosen["row"]), rows=rows))
        figures: Mapping[str, float] = next((event.get("figures", {}) for event in self._all("finish")), {})
        search.finish(self._status(), figures, self.events[-1]["time"])

    def _status(self) -> str:
        """How the command closed it; KILLED if the command was killed before it could."""
        return str(next((event["status"] for event in reversed(list(self._all("finish")))), "KILLED"))

    def _all(self, kind: str) -> Iterator[dict[str, Any]]:
        return (event for event in self.events if event["event"] == kind)


def _is_measured(file: Path, checksum: str) -> bool:
    """Whether an exported file, with its ``.bin`` if it is an ``.xml``, has the checksum of its row."""
    digest = hashlib.sha256(file.read_bytes())
    weights = file.with_suffix(".bin")
    if file.suffix == ".xml" and is_inside(weights, file.parent):
        digest.update(weights.read_bytes())
    return digest.hexdigest() == checksum


def _this_machine() -> tuple[str, str | None]:
    """Name of this machine, and what identifies the start of its kernel, if the system says it."""
    return platform.node(), BOOT.read_text().strip() if BOOT.exists() else None


def how_to_send(folder: Path, name: str = "mlflow") -> str:
    """The command that sends the journals of a folder that are not on the list."""
    return f"python -m src.sync {shlex.quote(str(folder))} --to {name}"


def begin_parent(survey: Path, artifacts: Path, store: StoreName) -> Journal | None:
    """The journal of the parent of a survey or search, which is begun if there is none."""
    there = journals_in(survey, artifacts)
    return there[0] if there else Journal.begin(survey, artifacts, store)


def journals_in(folder: Path, artifacts: Path) -> list[Journal]:
    """The journals in a folder, but not those of its members, that the list beside the stages names."""
    found = [(path, _listed(path, artifacts)) for path in _paths_in(folder)]
    return [Journal(path, artifacts, listed) for path, listed in found if listed is not None]


def unlisted_in(folder: Path, artifacts: Path) -> list[Path]:
    """Paths of the journals in a folder that the list does not name a store for."""
    return [path for path in _paths_in(folder) if _listed(path, artifacts) is None]


def list_journal(path: Path, artifacts: Path, store: StoreName, surveys: Sequence[Path]) -> Journal:
    """Put a journal on the list, as its user says; it is then sent to ``store`` like all others.

    Args:
        path: Path of the journal.
        artifacts: Folder of the stages.
        store: The store that the user names.
        surveys: Folders that the user names; the run is a member of the one that holds its folder, if there is one.

    Raises:
        TrackingError: The journal holds something else than a run.
    """
    survey = next((each.resolve() for each in surveys if each.resolve() == path.parent.parent), None)
    listed = Listed(store, survey)
    journal = Journal(path, artifacts, listed)
    if not journal.is_run:
        journal.survey = None
        listed = journal.listed = replace(listed, survey=None)
    with contextlib.suppress(OSError):  # it is sent now; only if the store fails it must be named again
        listed.write(_entry(path, artifacts), path)
    return journal


@dataclass(frozen=True)
class Unsent:
    """What the list beside the stages names.

    Attributes:
        journals: The journals, runs before their parents.
        gone: Folders that are gone.
        lines: A line for each entry, and each journal, that cannot be sent as it is.
    """

    journals: Sequence[Journal]
    gone: Sequence[Path]
    lines: Sequence[str]


def journals_of(artifacts: Path) -> Unsent:
    """What the list beside the stages names.

    An entry of a folder that is gone, or holds no journal any more, is removed.
    """
    runs: list[Journal] = []
    parents: list[Journal] = []
    gone: list[Path] = []
    lines: list[str] = []
    for entry in sorted((artifacts.expanduser().resolve() / UNSENT).glob("*.json")):
        try:
            record = read_record(entry)
            schema.check(record, PLACE)
            folder = Path(os.path.normpath(entry.parent / record["folder"]))
            path = folder / record["journal"]
            if path.is_file():
                listed = Listed.read(record, entry)
                if listed is None:
                    lines.append(f"{path} is of an earlier version and names no store: {how_to_send(folder)} sends it")
                    continue
                journal = Journal(path, artifacts, listed)
                (runs if journal.is_run else parents).append(journal)
                continue
            if not folder.is_dir():
                gone.append(folder)
        except TrackingError as error:
            lines.append(f"Not sent: {error}")
            continue
        except (InputError, schema.InputError, OSError) as error:
            lines.append(f"Not sent: {entry}: {error}")
            continue
        with contextlib.suppress(OSError):
            entry.unlink()
    return Unsent([*runs, *parents], gone, lines)


def _paths_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.resolve().glob(f"{UNSENT}-*.jsonl") if is_inside(path, folder))


def _listed(path: Path, artifacts: Path) -> Listed | None:
    entry = _entry(path, artifacts)
    try:
        return Listed.read(read_record(entry), entry)
    except (InputError, schema.InputError, OSError):
        return None


def _entry(path: Path, artifacts: Path) -> Path:
    """The file of the list that names a journal; the same wherever both are moved."""
    listed = artifacts.expanduser().resolve() / UNSENT
    return listed / f"{hashlib.sha256(os.path.relpath(path, listed).encode()).hexdigest()[:16]}.json"
