"""An open run in MLflow: its epochs, its result rows, and a logged model for each exported file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.contracts import Epoch, Refused, Row, RunDescription, TrackedRun
from src.files.inside import is_inside
from src.tracking.comparing import sparsity_of
from src.tracking.mlflow_models import log_model
from src.tracking.mlflow_store import answering, metric_key, milliseconds, one_at_a_time

SAMPLING_SECONDS = 5
# Both sort behind the columns of a row, which stand in a run by their plain names.
FILES, CURVES = "targets", "training"  # of metrics: by target all columns of a row, by stage the epochs of its training


class MlflowRun(TrackedRun):
    """An open run. Every figure has the time at which it was measured, so that MLflow knows it again.

    Args:
        client: MLflow's client.
        uri: Address of the store.
        experiment: Identifier of MLflow's experiment.
        run_id: Identifier of the run.
        run: Description of the run.
        notes: Lines for a person.
    """

    def __init__(
        self, client: Any, uri: str, experiment: str, run_id: str, run: RunDescription, notes: Sequence[str]
    ) -> None:
        self.run_id: str = run_id
        self.notes = notes
        self._client, self._uri, self._experiment, self._run = client, uri, experiment, run
        self._monitor: Any = None

    def monitor(self) -> None:
        """Log the use of processor and memory until the run is finished."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(self.run_id, sampling_interval=SAMPLING_SECONDS, tracking_uri=self._uri)
        self._monitor.start()

    def epoch(self, stage: str, epoch: Epoch) -> None:
        from mlflow.entities import Metric

        fields = {key: value for key, value in asdict(epoch).items() if key not in ("epoch", "finished_at")}
        numbers = {key: value for key, value in fields.items() if value is not None}  # null stands for infinite
        at = milliseconds(epoch.finished_at)
        metrics = [
            Metric(metric_key(f"{CURVES}/{stage}/{key}"), value, at, epoch.epoch) for key, value in numbers.items()
        ]
        with answering(self._uri):
            self._client.log_batch(self.run_id, metrics=metrics)

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        with answering(self._uri):
            for row in rows:
                with one_at_a_time():  # members of a survey that run at once log the baseline's model once
                    self._log_model(row, folder)
            first = next(row for row in rows if row.variant == self._run.variant)
            if "bits" not in self._client.get_run(self.run_id).data.params:
                self._client.log_param(self.run_id, "bits", f"{first.bits_per_weight:.3g}")
            self._log_columns(rows, first)
            for key in ("identity", "machine"):
                self._client.set_tag(self.run_id, key, getattr(rows[-1], key))
            for file, place in _visible_files(folder):
                self._client.log_artifact(self.run_id, str(file), place)

    def refused(self, refused: Sequence[Refused]) -> None:
        with answering(self._uri):
            for each in refused:
                self._client.set_tag(self.run_id, metric_key(f"refused.{each.variant}.{each.target}"), each.reason)

    def finish(self, status: str, ended: float | None = None) -> None:
        monitor, self._monitor = self._monitor, None
        with answering(self._uri):
            try:
                if monitor is not None:
                    monitor.finish()
            finally:
                self._client.set_terminated(self.run_id, status, milliseconds(ended or time.time()))

    def _log_model(self, row: Row, folder: Path) -> None:
        """Log a row's file as a model with the row's numbers, and link it; a model of another run is linked alone."""
        from mlflow.entities import LoggedModelOutput

        model = log_model(self._client, self._experiment, self.run_id, row, folder, self._run.data)
        outputs = self._client.get_run(self.run_id).outputs
        linked = {output.model_id for output in outputs.model_outputs} if outputs is not None else set()
        if model.model_id not in linked:  # a run that resumes may have linked it before
            self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])

    def _log_columns(self, rows: Sequence[Row], first: Row) -> None:
        """Log each row's numbers as metrics ``targets/<target>/<column>``, and those of ``first`` by plain names.

        The models' numbers stand in the run by plain names, too, and MLflow shows the latest: those of ``first`` are
        a millisecond later than all others.
        """
        from mlflow.entities import Metric

        metrics = []
        for row in rows:
            prefix = f"{FILES}/{row.target}" if row.variant == self._run.variant else f"{FILES}/{row.target}/baseline"
            at = milliseconds(row.measured_at)
            metrics += [
                Metric(metric_key(f"{prefix}/{key}"), float(value), at, 0) for key, value in row.numbers().items()
            ]
        last = max(milliseconds(row.measured_at) for row in rows) + 1
        metrics += [Metric(key, float(value), last, 0) for key, value in first.numbers().items()]
        sparsity = sparsity_of(first)
        metrics += [Metric("sparsity", sparsity, last, 0)] if sparsity is not None else []
        self._client.log_batch(self.run_id, metrics=metrics)


def _visible_files(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Each file of a folder but the hidden ones and links out of it, and the folder below the run's it is logged to."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if is_inside(path, folder) and not any(part.startswith(".") for part in parts):
            yield path, "/".join(parts[:-1]) or None
