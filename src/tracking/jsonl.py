"""JSON lines: every event of every run is one line of one file, for CI and for people without MLflow.

Each line is an object with ``event``, ``time`` (seconds since 1970) and the event's own fields:

=================  ==================================================================================================
run_started        run, parent, experiment, variant, model, seed, data, config, command, folder, survey, git_commit,
                   versions, tags
run_resumed        run
epoch              run, stage and the fields of ``Epoch``
row                run, file and the columns of ``Row`` as ``row``
refused            run, variant, target, reason
run_finished       run, status
survey_started     survey (the parent of its members), folder, experiment, git_commit, tags; a search has it, too
survey_resumed     survey, tags: trials of a search follow
trial              survey, status and the fields of ``TrialRecord``
survey_finished    survey, status, figures, files
registration       name, version, run, file, tags, card
alias_moved        name, alias, version, before
device_row         run, parent, digest, file and the fields of ``DeviceRow``
=================  ==================================================================================================
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.contracts import (
    DeviceRow,
    Epoch,
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
from src.tracking.aliases import Tags
from src.tracking.event_file import EventFile
from src.tracking.registry import SAME_MODEL, Registry
from src.tracking.surveys import FILES, REPORTS, forget_parent, open_parent, read_parent

SAME_ROW = (*SAME_MODEL, "target")


class JsonLines(Tracker):
    """Appends to one file; several processes may write to it at the same time.

    Args:
        uri: Path of the file, which is created if it does not exist.
        tags: More tags of each run and search.
    """

    def __init__(self, *, uri: str, tags: Mapping[str, str] | None = None) -> None:
        self.uri: str = uri
        self.tags = dict(tags or {})
        self.file = EventFile(Path(uri))

    @property
    def compare(self) -> str:
        return self.uri

    def start(self, run: RunDescription) -> TrackedRun:
        with self.file.locked():
            parent = self._parent(run)
            earlier = self._earlier_run(run, parent)
            if earlier is not None:
                self.file.append("run_resumed", run=earlier)
            else:
                self.file.append(
                    "run_started",
                    run=run.key,
                    parent=parent,
                    experiment=run.experiment,
                    variant=run.variant,
                    model=run.model,
                    seed=run.seed,
                    data={"name": run.data.name, "checksum": run.data.checksum},
                    config=run.config,
                    command=run.command,
                    folder=str(run.folder),
                    survey=None if run.survey is None else str(run.survey),
                    git_commit=run.git_commit,
                    versions=run.versions,
                    tags=self.tags,
                )
        return JsonLinesRun(self.file, earlier or run.key, resumed=earlier is not None)

    def search(self, folder: Path) -> TrackedSearch:
        return JsonLinesSearch(self, folder)

    def forget(self, folder: Path) -> None:
        forget_parent(folder)

    def promote(self, name: str, version: str, alias: str) -> tuple[bool, str]:
        with self.file.locked():
            return JsonLinesRegistry(self.uri, self.file).promote(name, version, alias)

    def device_rows(self, digest: str, rows: Sequence[DeviceRow], file: Path) -> tuple[int, int]:
        made = 0
        with self.file.locked():
            parents = {event["run"]: event["parent"] for event in self.file.events("run_started")}
            unknown = sorted({row.host_run for row in rows} - set(parents))
            if unknown:
                raise TrackingError(f"{self.uri} has no run {', '.join(unknown)}")
            logged = {event["name"] for event in self.file.events("device_row") if event["digest"] == digest}
            for row in rows:
                if row.name not in logged:
                    parent = parents[row.host_run] or row.host_run
                    run_id = _new_id()
                    self.file.append(
                        "device_row", run=run_id, parent=parent, digest=digest, file=str(file), **asdict(row)
                    )
                    made += 1
        return made, len(rows) - made

    def _parent(self, run: RunDescription) -> str | None:
        """The identifier of the survey, which its first member starts; None for a single run."""
        survey = run.survey
        if survey is None:
            return None

        def opened(key: str) -> str:
            if key not in {event["survey"] for event in self.file.events("survey_started")}:
                self.file.append(
                    "survey_started",
                    survey=key,
                    folder=str(survey),
                    experiment=run.experiment,
                    git_commit=run.git_commit,
                    tags=self.tags,
                )
            return key

        return open_parent(survey, self.uri, opened)

    def _earlier_run(self, run: RunDescription, parent: str | None) -> str | None:
        """The run of the same key, or the member's run of the same folder and variant; None if there is none."""
        wanted = (parent, run.folder.name, run.variant)  # its name: a survey may have been moved
        for event in self.file.events("run_started"):
            member = (event["parent"], Path(event["folder"]).name, event["variant"])
            if event["run"] == run.key or (parent is not None and member == wanted):
                return str(event["run"])
        return None


class JsonLinesRun(TrackedRun):
    """An open run.

    Args:
        file: The file.
        run_id: Identifier of the run.
        resumed: Whether the file may have some of the run.
    """

    def __init__(self, file: EventFile, run_id: str, *, resumed: bool) -> None:
        self.run_id: str = run_id
        self.file = file
        self._logged = self._epochs() if resumed else set[tuple[Any, ...]]()

    def epoch(self, stage: str, epoch: Epoch) -> None:
        key = (stage, epoch.epoch, epoch.finished_at)
        if key not in self._logged:
            self.file.append("epoch", run=self.run_id, stage=stage, **asdict(epoch))
            self._logged.add(key)

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        with self.file.locked():
            own = [event["row"] for event in self.file.events("row") if event["run"] == self.run_id]
            logged = {tuple(row[column] for column in SAME_ROW) for row in own}
            for row in rows:
                if tuple(getattr(row, column) for column in SAME_ROW) not in logged:
                    self.file.append("row", run=self.run_id, file=str(folder / row.artifact), row=asdict(row))

    def refused(self, refused: Sequence[Refused]) -> None:
        with self.file.locked():
            own = [event for event in self.file.events("refused") if event["run"] == self.run_id]
            logged = {(event["variant"], event["target"], event["reason"]) for event in own}
            for each in refused:
                if (each.variant, each.target, each.reason) not in logged:
                    self.file.append(
                        "refused", run=self.run_id, variant=each.variant, target=each.target, reason=each.reason
                    )

    def finish(self, status: str, ended: float | None = None) -> None:
        self.file.append("run_finished", run=self.run_id, status=status, **({} if ended is None else {"time": ended}))

    def _epochs(self) -> set[tuple[Any, ...]]:
        events = (event for event in self.file.events("epoch") if event["run"] == self.run_id)
        return {(event["stage"], event["epoch"], event["finished_at"]) for event in events}


class JsonLinesSearch(TrackedSearch):
    """A search, which its baseline's run has started.

    Args:
        tracker: The tracker.
        folder: Folder of the search.
    """

    def __init__(self, tracker: JsonLines, folder: Path) -> None:
        self.file, self.uri, self.tags, self.folder = tracker.file, tracker.uri, tracker.tags, folder
        self._survey: str | None = None

    def trials(self, records: Sequence[TrialRecord]) -> None:
        with self.file.locked():
            survey = self._opened()
            logged = {event["number"] for event in self.file.events("trial") if event["survey"] == survey}
            for record in records:
                if record.number not in logged:
                    status = "FAILED" if record.failed else "FINISHED"
                    self.file.append("trial", survey=survey, status=status, **asdict(record))
                    logged.add(record.number)

    def register(self, chosen: Registration) -> list[str]:
        with self.file.locked():
            return JsonLinesRegistry(self.uri, self.file).register(chosen, self.folder)

    def finish(self, status: str, figures: Mapping[str, float], ended: float | None = None) -> None:
        files = [str(self.folder / name) for name in (*FILES, *REPORTS) if (self.folder / name).exists()]
        at = {} if ended is None else {"time": ended}
        parent = self._parent()
        self.file.append("survey_finished", survey=parent, status=status, figures=dict(figures), files=files, **at)

    def _opened(self) -> str:
        """The search's identifier; says once that the search resumed."""
        if self._survey is None:
            parent = self._parent()
            self.file.append("survey_resumed", survey=parent, tags=self.tags)
            self._survey = parent
        return self._survey

    def _parent(self) -> str:
        parent = read_parent(self.folder, self.uri)
        if parent is None:
            raise TrackingError(f"{self.uri} has no search in {self.folder}")
        return parent.run_id


class JsonLinesRegistry(Registry):
    """Registered models, read back from the lines.

    Args:
        uri: Address of the store.
        file: The file.
    """

    def __init__(self, uri: str, file: EventFile) -> None:
        super().__init__(uri)
        self.file = file

    def versions(self, name: str) -> Mapping[str, Tags]:
        events = self.file.events("registration")
        return {event["version"]: event["tags"] for event in events if event["name"] == name}

    def holder(self, name: str, alias: str) -> str | None:
        moves = [event for event in self.file.events("alias_moved") if (event["name"], event["alias"]) == (name, alias)]
        return str(moves[-1]["version"]) if moves else None

    def move(self, name: str, alias: str, version: str) -> None:
        self.file.append("alias_moved", name=name, alias=alias, version=version, before=self.holder(name, alias))

    def add(self, chosen: Registration, tags: Tags, card: str) -> str:
        wanted = tuple(getattr(chosen.row, key) for key in SAME_MODEL)
        for event in self.file.events("row"):
            if tuple(event["row"][key] for key in SAME_MODEL) == wanted:
                version = str(len(self.versions(chosen.name)) + 1)
                self.file.append(
                    "registration",
                    name=chosen.name,
                    version=version,
                    run=event["run"],
                    file=event["file"],
                    tags=dict(tags),
                    card=card,
                )
                return version
        raise TrackingError(f"the model registry at {self.uri} has no logged model of {chosen.row.artifact}")


def _new_id() -> str:
    return uuid.uuid4().hex
