"""A search in MLflow: its parent run, and a child run for each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.contracts import Registration, TrackedSearch, TrackingError, TrialRecord
from src.tracking.mlflow_registry import MlflowRegistry
from src.tracking.mlflow_store import PARENT_TAG, all_of, answering
from src.tracking.provenance import git_commit
from src.tracking.surveys import read_parent

FILES = ("search.json", "results.json", "metrics.json", "front.png", "config.yaml")
PAGE = 1000


@dataclass(frozen=True)
class _Store:
    """The store as the search found it when it first logged something.

    Attributes:
        client: MLflow's client.
        parent: Identifier of the search's run.
        experiment: Identifier of MLflow's experiment.
        logged: Numbers of the trials that the store has; grows.
    """

    client: Any
    parent: str
    experiment: str
    logged: set[int]


class MlflowSearch(TrackedSearch):
    """Logs trials as children of the search's run, which its baseline's run opened.

    Args:
        uri: Address of the store.
        folder: Folder of the search.
        tags: More tags of the search's run and of each trial's run.
    """

    def __init__(self, uri: str, folder: Path, tags: Mapping[str, str]) -> None:
        self.uri, self.folder, self.tags = uri, folder, tags
        self._opened: _Store | None = None

    def trials(self, records: Sequence[TrialRecord]) -> None:
        from filelock import FileLock

        # The lock lets a command that is given twice at the same time log each trial once.
        with FileLock(self.folder / ".tracking.lock"), answering(self.uri):
            store = self._store()
            for record in records:
                if record.number in store.logged:
                    continue
                if not self._logged_meanwhile(store, record.number):
                    self._log(store, record)
                store.logged.add(record.number)

    def register(self, chosen: Registration) -> list[str]:
        with answering(self.uri):
            return MlflowRegistry(self.uri).register(chosen, self.folder)

    def finish(self, status: str, figures: Mapping[str, float]) -> None:
        with answering(self.uri):
            store = self._store()
            for name in FILES:
                if (self.folder / name).exists():
                    store.client.log_artifact(store.parent, str(self.folder / name))
            for key, value in figures.items():
                store.client.log_metric(store.parent, key, value)
            store.client.set_terminated(store.parent, status)

    def _store(self) -> _Store:
        """Open the search's run again and read which trials it has; once."""
        from mlflow import MlflowClient

        if self._opened is None:
            parent = read_parent(self.folder, self.uri)
            if parent is None:
                raise TrackingError(f"MLflow at {self.uri} has no run of the search in {self.folder}")
            client = MlflowClient(tracking_uri=self.uri)
            experiment = client.get_run(parent.run_id).info.experiment_id
            client.update_run(parent.run_id, status="RUNNING")
            for key, value in self.tags.items():
                client.set_tag(parent.run_id, key, value)
            logged = _logged_trials(client, experiment, parent.run_id)
            self._opened = _Store(client, parent.run_id, experiment, logged)
        return self._opened

    def _log(self, store: _Store, record: TrialRecord) -> None:
        from mlflow.entities import Metric, Param

        started, ended = int(1000 * record.started), int(1000 * record.ended)
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
            params=[Param(key.replace(":", "/"), str(value)) for key, value in record.params.items()],
        )
        store.client.set_terminated(run.info.run_id, "FAILED" if record.failed else "FINISHED", ended)

    def _logged_meanwhile(self, store: _Store, number: int) -> bool:
        """Whether another process has logged a trial since; a run that was only half written is deleted."""
        finished = False
        wanted = all_of("tags", {PARENT_TAG: store.parent, "trial": number})
        for run in store.client.search_runs([store.experiment], wanted):
            if run.info.status == "RUNNING":
                store.client.delete_run(run.info.run_id)
            else:
                finished = True
        return finished


def _logged_trials(client: Any, experiment: str, parent: str) -> set[int]:
    """Numbers of the trials that are completely logged."""
    logged: set[int] = set()
    page = None
    while True:
        runs = client.search_runs([experiment], all_of("tags", {PARENT_TAG: parent}), max_results=PAGE, page_token=page)
        complete = [run for run in runs if "trial" in run.data.tags and run.info.status != "RUNNING"]
        logged.update(int(run.data.tags["trial"]) for run in complete)
        page = runs.token
        if not page:
            return logged
