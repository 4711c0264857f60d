"""A search in MLflow: its parent run, a child for each trial, and the chosen model in the registry."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from src.contracts import TrackingError, TrialRecord
from src.tracking import registry
from src.tracking.mlflow import PARENT, answering
from src.tracking.provenance import git_commit

log = logging.getLogger(__name__)
FILES = ("search.json", "results.json", "metrics.json", "front.png", "config.yaml")


class StudyTracking:
    """Writes down trials as children of the search's run, which its baseline opened.

    What fails is kept in ``failure`` and ends the tracking, not the search.

    Args:
        uri: Of the tracking store; None tracks nothing.
        folder: Of the search.
        tags: More tags of each trial's run.
    """

    def __init__(self, uri: str | None, folder: Path, tags: Mapping[str, str]) -> None:
        self.uri, self.folder, self.tags = uri, folder, tags
        self.failure: str | None = None
        self._logged: set[int] | None = None
        self._client: Any = None
        self._parent, self._experiment = "", ""

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Log those that the store does not have yet."""
        if self.uri is None or self.failure is not None:
            return
        try:
            # The same command, given twice at once, logs each trial once.
            with FileLock(self.folder / ".tracking.lock"), answering(self.uri):
                logged = self._known()
                for record in records:
                    if record.number not in logged:
                        if not self._there(record.number):
                            self._log(record)
                        logged.add(record.number)
        except TrackingError as error:
            self.failed(error)

    def finish(self, status: str, numbers: Mapping[str, float]) -> None:
        """Log the search's files and figures, and close its run as FINISHED, FAILED or KILLED."""
        if self.uri is None or self.failure is not None:
            return
        try:
            with answering(self.uri):
                self._known()
                for name in FILES:
                    if (self.folder / name).exists():
                        self._client.log_artifact(self._parent, str(self.folder / name))
                for key, value in numbers.items():
                    self._client.log_metric(self._parent, key, value)
                self._client.set_terminated(self._parent, status)
        except TrackingError as error:
            self.failed(error)

    def register(
        self, name: str, rows: list[dict[str, Any]], row: dict[str, Any], about: Mapping[str, Any]
    ) -> list[str]:
        """Make the model of ``row`` a version of the registered model ``name``, and offer it every alias.

        Args:
            name: Of the registered model.
            rows: Of the model's files and of the baseline's, for the model card.
            row: Of the file that is registered.
            about: See ``registry.register`` and ``registry.model_card``.

        Returns:
            What happened, a line for each.
        """
        if self.uri is None or self.failure is not None:
            return []
        try:
            card = registry.model_card(name, rows, about)
            (self.folder / "model_card.md").write_text(card + "\n")
            version = registry.register(self.uri, name, row, about, card)
            moved = [registry.promote(self.uri, name, version, alias)[1] for alias in registry.RULES]
        except TrackingError as error:
            self.failed(error)
            return []
        return [f"Registered: {name} version {version}. {'; '.join(moved)}."]

    def failed(self, error: TrackingError) -> None:
        """Keep the reason and track no more."""
        self.failure = str(error)
        log.error("tracking failed: %s", error)

    def _log(self, record: TrialRecord) -> None:
        from mlflow.entities import Metric, Param

        begun, ended = int(1000 * record.started), int(1000 * record.ended)
        tags = {
            "mlflow.parentRunId": self._parent,
            "trial": str(record.number),
            "mlflow.source.git.commit": git_commit() or "",
            **self.tags,
            **record.tags,
        }
        name = f"trial {record.number}"
        run = self._client.create_run(self._experiment, start_time=begun, run_name=name, tags=tags)
        self._client.log_batch(
            run.info.run_id,
            metrics=[Metric(key, value, ended, 0) for key, value in record.values.items()],
            params=[Param(key.replace(":", "/"), str(value)) for key, value in record.params.items()],
        )
        self._client.set_terminated(run.info.run_id, "FAILED" if record.failed else "FINISHED", ended)

    def _known(self) -> set[int]:
        """Numbers of the trials that the store has; found out once."""
        from mlflow import MlflowClient

        if self._logged is None:
            self._client = MlflowClient(tracking_uri=self.uri)
            self._parent = (self.folder / PARENT).read_text().splitlines()[0]
            self._experiment = self._client.get_run(self._parent).info.experiment_id
            self._client.update_run(self._parent, status="RUNNING")
            for key, value in self.tags.items():
                self._client.set_tag(self._parent, key, value)
            self._logged, page = set(), None
            while True:
                asked = f"tags.`mlflow.parentRunId` = '{self._parent}'"
                runs = self._client.search_runs([self._experiment], asked, max_results=1000, page_token=page)
                whole = [run for run in runs if "trial" in run.data.tags and run.info.status != "RUNNING"]
                self._logged.update(int(run.data.tags["trial"]) for run in whole)
                page = runs.token
                if not page:
                    break
        return self._logged

    def _there(self, number: int) -> bool:
        """Whether another process has logged a trial meanwhile; what was cut off while it was written is deleted."""
        asked = f"tags.`mlflow.parentRunId` = '{self._parent}' and tags.trial = '{number}'"
        there = False
        for run in self._client.search_runs([self._experiment], asked):
            if run.info.status == "RUNNING":
                self._client.delete_run(run.info.run_id)
            else:
                there = True
        return there
