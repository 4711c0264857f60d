"""A search in MLflow: its parent run, and a child run for each trial."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.contracts import Registration, TrackedSearch, TrackingError, TrialRecord
from src.files.inside import is_inside
from src.tracking.mlflow_registry import MlflowRegistry
from src.tracking.mlflow_store import PARENT_TAG, answering, connect, metric_key, milliseconds, runs_with
from src.tracking.provenance import git_commit
from src.tracking.surveys import DESCRIPTION, FILES, REPORTS, read_parent

NOTE = "mlflow.note.content"  # what MLflow's page shows as the description of a run, in Markdown
LONGEST_NOTE = 7_000  # MLflow cuts a tag at 8,000 characters


@dataclass(frozen=True)
class _Store:
    """The store as the search found it when it first logged something.

    Attributes:
        client: MLflow's client.
        parent: Identifier of the search's run.
        experiment: Identifier of MLflow's experiment.
        figures: The figures that the search's run has.
    """

    client: Any
    parent: str
    experiment: str
    figures: Mapping[str, float]


class MlflowSearch(TrackedSearch):
    """Logs trials as children of the search's run, which its baseline's run opened; and closes a survey's run.

    Args:
        uri: Address of the store.
        folder: Folder of the search or survey.
        tags: More tags of the search's run and of each trial's run.
    """

    def __init__(self, uri: str, folder: Path, tags: Mapping[str, str]) -> None:
        self.uri, self.folder, self.tags = uri, folder, tags
        self._opened: _Store | None = None
        self._logged: set[int] | None = None  # numbers of the trials that the store has

    def trials(self, records: Sequence[TrialRecord]) -> None:
        from filelock import FileLock

        # The lock lets a command that is given twice at the same time log each trial once.
        with FileLock(self.folder / ".tracking.lock"), answering(self.uri):
            store = self._store()
            if self._logged is None:
                store.client.update_run(store.parent, status="RUNNING")
                self._logged = _logged_trials(store)
            for record in records:
                if record.number in self._logged:
                    continue
                if not _logged_meanwhile(store, record.number):
                    self._log(store, record)
                self._logged.add(record.number)

    def register(self, chosen: Registration) -> list[str]:
        with answering(self.uri):
            return MlflowRegistry(self.uri).register(chosen, self.folder)

    def finish(self, status: str, figures: Mapping[str, float], ended: float | None = None) -> None:
        with answering(self.uri):
            store = self._store()
            for name in (*FILES, *REPORTS):
                if is_inside(self.folder / name, self.folder):
                    store.client.log_artifact(store.parent, str(self.folder / name))
            if is_inside(self.folder / DESCRIPTION, self.folder):
                store.client.set_tag(store.parent, NOTE, _description(self.folder / DESCRIPTION))
            for key, value in figures.items():
                if store.figures.get(key) != value:
                    store.client.log_metric(store.parent, key, value)
            store.client.set_terminated(store.parent, status, milliseconds(ended or time.time()))

    def _store(self) -> _Store:
        """Find the search's run again; once."""
        if self._opened is None:
            parent = read_parent(self.folder, self.uri)
            if parent is None:
                raise TrackingError(f"MLflow at {self.uri} has no run of the search in {self.folder}")
            client, _ = connect(self.uri)
            run = client.get_run(parent.run_id)
            for key, value in self.tags.items():
                client.set_tag(parent.run_id, key, value)
            self._opened = _Store(client, parent.run_id, run.info.experiment_id, run.data.metrics)
        return self._opened

    def _log(self, store: _Store, record: TrialRecord) -> None:
        from mlflow.entities import Metric, Param

        started, ended = milliseconds(record.started), milliseconds(record.ended)
        tags = {
            PARENT_TAG: store.parent,
            "trial": str(record.number),
            "mlflow.source.git.commit": git_commit() or "",
            **self.tags,
            **record.tags,
        }
        name = f"trial {record.number}"
        run = store.client.create_run(store.experiment, start_time=started, run_name=name, tags=tags)
        store.client.log_batch(
            run.info.run_id,
            metrics=[Metric(key, value, ended, 0) for key, value in record.values.items()],
            params=[Param(metric_key(key.replace(":", "/")), str(value)) for key, value in record.params.items()],
        )
        store.client.set_terminated(run.info.run_id, "FAILED" if record.failed else "FINISHED", ended)


def _description(report: Path) -> str:
    """A report in Markdown up to the first part that MLflow need not show, and up to what a tag may hold."""
    text = report.read_text(encoding="utf-8", errors="replace").partition("\n### ")[0]
    if len(text) > LONGEST_NOTE:
        text = text[:LONGEST_NOTE].rpartition("\n")[0] + "\n"
    return text


def _logged_meanwhile(store: _Store, number: int) -> bool:
    """Whether another process has logged a trial since; a run that was only half written is deleted."""
    finished = False
    for run in runs_with(store.client, store.experiment, {PARENT_TAG: store.parent, "trial": number}):
        if run.info.status == "RUNNING":
            store.client.delete_run(run.info.run_id)
        else:
            finished = True
    return finished


def _logged_trials(store: _Store) -> set[int]:
    """Numbers of the trials that are completely logged."""
    runs = runs_with(store.client, store.experiment, {PARENT_TAG: store.parent})
    return {int(run.data.tags["trial"]) for run in runs if "trial" in run.data.tags and run.info.status != "RUNNING"}
