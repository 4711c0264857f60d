"""MLflow: a run for each member, a parent for its survey, a logged model for each exported file."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

# MLflow's own retries take minutes; set before its import, and only where the user has not.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from src.contracts import DataSplits, Epoch, Row, RunDescription, TrackingError, first_line
from src.tracking.provenance import git_commit, versions

PARENT = ".mlflow_parent"
MODEL_PARAMS = ("variant", "target", "runtime", "precision", "data", "model", "identity", "sha256", "measured_at")
SHORT = 6000  # MLflow refuses longer parameters; the whole config is an artifact, too


def finish_survey(survey: Path, status: str) -> None:
    """Close the parent run of a survey with its final ``survey.json``; raises TrackingError where that fails.

    Args:
        survey: The survey's folder.
        status: FINISHED, FAILED or KILLED.
    """
    from mlflow import MlflowClient

    noted = survey / PARENT
    if not noted.exists():
        return
    parent, uri = noted.read_text().splitlines()
    with answering(uri):
        client = MlflowClient(tracking_uri=uri)
        client.log_artifact(parent, str(survey / "survey.json"))
        client.set_terminated(parent, status)


class MlflowTracker:
    """Logs to one MLflow store.

    Args:
        uri: ``sqlite:///mlflow.db`` or a server's address.
        system_metrics: Log processor and memory use while the run is open.
        config: The run's resolved config; its leaves become parameters.
        command: That makes the run again.
        folder: Of the run.
        survey: The survey's folder where the run is a member of one.
        tags: More tags of the run.
    """

    def __init__(
        self,
        *,
        uri: str,
        system_metrics: bool,
        config: Mapping[str, Any],
        command: str,
        folder: Path,
        survey: Path | None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.uri, self.system_metrics = uri, system_metrics
        self.config, self.command, self.folder, self.survey = config, command, folder, survey
        self.tags = tags or {}
        self._client: Any = None
        self._monitor: Any = None
        self._run = ""
        self._parent: str | None = None
        self._experiment = ""
        self._variant = ""
        self._data: DataSplits | None = None
        self._dataset = ("", "")

    @property
    def run_id(self) -> str | None:
        return self._run or None

    def start(self, run: RunDescription) -> None:
        """Open the run; raises TrackingError within seconds where nothing answers."""
        from filelock import FileLock
        from mlflow import MlflowClient
        from mlflow.entities import DatasetInput, InputTag, Param

        self._variant, self._data = run.variant, run.data
        # One process at a time: two that create the same store, or write down the same data set, crash each other.
        with answering(self.uri), FileLock(Path(tempfile.gettempdir()) / "dnn-compression-mlflow.lock", mode=0o666):
            self._client = MlflowClient(tracking_uri=self.uri)
            self._experiment = self._experiment_id(run.experiment)
            self._parent = self._parent_run(run)
            used = [DatasetInput(_dataset(run.data), [InputTag("mlflow.data.context", "train, test")])]
            self._dataset = (used[0].dataset.name, used[0].dataset.digest)
            self._run = self._same_run(run)
            if not self._run:
                name = f"{run.variant} {run.model} seed {run.seed}"
                self._run = self._client.create_run(self._experiment, tags=self._tags(run), run_name=name).info.run_id
                params = [Param(key, str(value)[:SHORT]) for key, value in _leaves(self.config)]
                for start in range(0, len(params), 100):
                    self._client.log_batch(self._run, params=params[start : start + 100])
                self._client.log_inputs(self._run, used)
            if self.system_metrics:
                from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

                self._monitor = SystemMetricsMonitor(self._run, sampling_interval=5, tracking_uri=self.uri)
                self._monitor.start()

    def epoch(self, stage: str, epoch: Epoch) -> None:
        from mlflow.entities import Metric

        numbers = {key: value for key, value in asdict(epoch).items() if key not in ("epoch", "finished_at")}
        with answering(self.uri):
            self._client.log_batch(
                self._run,
                metrics=[
                    Metric(f"{stage}/{key}", value, int(1000 * epoch.finished_at), epoch.epoch)
                    for key, value in numbers.items()
                ],
            )

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        from mlflow.entities import LoggedModelOutput, Metric

        with answering(self.uri):
            own = [row for row in rows if row.variant == self._variant]
            for row in [*(row for row in rows if row.variant != self._variant), *own[::-1]]:
                model = self._logged_before(row)
                if model is not None:
                    self._client.log_outputs(self._run, [LoggedModelOutput(model, step=0)])
                    continue
                model = self._log_model(row, folder)
                self._client.log_outputs(self._run, [LoggedModelOutput(model, step=0)])
                for key, value in _numbers(row).items():
                    self._client.log_metric(
                        self._run,
                        key,
                        value,
                        model_id=model,
                        dataset_name=self._dataset[0],
                        dataset_digest=self._dataset[1],
                    )
            plain = [Metric(key, value, _now(), 0) for key, value in _numbers(own[0]).items()]
            prefixed = [
                Metric(
                    f"{row.target if row.variant == self._variant else f'baseline_{row.target}'}/{key}",
                    value,
                    _now(),
                    0,
                )
                for row in rows
                for key, value in _numbers(row).items()
            ]
            self._client.log_batch(self._run, metrics=[*prefixed, *plain])
            for key in ("identity", "machine"):
                self._client.set_tag(self._run, key, getattr(rows[-1], key))
            self._client.log_artifacts(self._run, str(folder))

    def finish(self, status: str) -> None:
        monitor, self._monitor = self._monitor, None
        with answering(self.uri):
            try:
                if monitor is not None:
                    monitor.finish()
            finally:
                if self._run:
                    self._client.set_terminated(self._run, status)

    def _experiment_id(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self.uri.startswith("sqlite:///"):
            location = (Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts" / name).as_uri()
        # The kind opens MLflow's pages for model training, not those for language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(name, artifact_location=location, tags=tags))

    def _tags(self, run: RunDescription) -> dict[str, str]:
        tags = {
            "variant": run.variant,
            "model": run.model,
            "data": run.data.name,
            "mlflow.source.name": self.command,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": git_commit() or "",
            "folder": str(self.folder),
            **{f"version.{name}": version for name, version in versions().items()},
            **self.tags,
        }
        return {**tags, "mlflow.parentRunId": self._parent} if self._parent else tags

    def _parent_run(self, run: RunDescription) -> str | None:
        """The survey's run, made by whichever member comes first."""
        if self.survey is None:
            return None
        noted = self.survey / PARENT
        if noted.exists() and noted.read_text().splitlines()[1] == self.uri:
            return noted.read_text().splitlines()[0]
        tags = {
            "folder": str(self.survey),
            "mlflow.source.git.commit": git_commit() or "",
            "mlflow.source.type": "LOCAL",
        }
        parent = self._client.create_run(
            self._experiment, tags=tags, run_name=f"{self.survey.parent.name} {self.survey.name}"
        )
        noted.write_text(f"{parent.info.run_id}\n{self.uri}\n")
        return str(parent.info.run_id)

    def _same_run(self, run: RunDescription) -> str:
        """The run that wrote into the same folder before, of the same variant and parent: it goes on; else nothing."""
        if self._parent is None:
            return ""
        asked = {"mlflow.parentRunId": self._parent, "folder": str(self.folder), "variant": run.variant}
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in asked.items())
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        return str(found[0].info.run_id) if found else ""

    def _logged_before(self, row: Row) -> str | None:
        """The model of the very same file and measurement, as a survey's other members log the baseline's."""
        asked = " and ".join(f"params.{key} = '{getattr(row, key)}'" for key in ("variant", "sha256", "measured_at"))
        found = self._client.search_logged_models([self._experiment], filter_string=asked, max_results=1)
        return str(found[0].model_id) if found else None

    def _log_model(self, row: Row, folder: Path) -> str:
        """Log the exported file as a model with a true signature, loadable by ``mlflow.pyfunc`` where it is ONNX."""
        import numpy as np
        from mlflow.models import Model
        from mlflow.models.signature import ModelSignature
        from mlflow.types import Schema, TensorSpec

        data = self._data
        assert data is not None
        name = f"{row.variant}.{row.target}".replace(".", "-")
        params = {key: str(getattr(row, key)) for key in MODEL_PARAMS}
        logged = self._client.create_logged_model(self._experiment, name=name, source_run_id=self._run, params=params)
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *data.image_shape), "image")]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(data.classes)), "logits")]),
        )
        with tempfile.TemporaryDirectory() as temporary:
            packed = Path(temporary)
            for part in sorted(folder.glob(f"{Path(row.artifact).stem}.*")):
                shutil.copy2(part, packed / part.name)
            flavors: dict[str, Any] = {row.runtime: {"data": row.artifact}}
            if row.artifact.endswith(".onnx"):
                import onnx

                flavors = {
                    "onnx": {
                        "onnx_version": onnx.__version__,
                        "data": row.artifact,
                        "providers": ["CPUExecutionProvider"],
                    },
                    "python_function": {
                        "loader_module": "mlflow.onnx",
                        "data": row.artifact,
                        "python_version": platform.python_version(),
                    },
                }
            metadata = {"classes": list(data.classes), "mean": list(data.mean), "std": list(data.std)}
            Model(
                run_id=self._run,
                flavors=flavors,
                signature=signature,
                metadata=metadata,
                model_id=logged.model_id,
                model_size_bytes=row.size_bytes,
            ).save(str(packed / "MLmodel"))
            self._client.log_model_artifacts(logged.model_id, str(packed))
        self._client.finalize_logged_model(logged.model_id, "READY")
        return str(logged.model_id)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises into a TrackingError of one line."""
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:  # MLflow lets through what its HTTP client, database and file system raise
        reason = first_line(error)
        if "Max retries exceeded" in reason or "Connection" in type(error.__cause__ or error).__name__:
            raise TrackingError(
                f"Nothing answers at tracking.uri={uri}; start the server, or choose tracking=off"
            ) from error
        raise TrackingError(f"MLflow at {uri} failed: {reason[:300]}") from error


def _dataset(data: DataSplits) -> Any:
    """The data set as an input of the run, its checksum as digest."""
    from mlflow.entities import Dataset

    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    return Dataset(
        name=data.name,
        digest=data.checksum[:32],
        source_type="local",
        source=json.dumps({"uri": data.name, "sha256": data.checksum}),
        schema=json.dumps({"image": ["uint8", list(data.image_shape)], "classes": list(data.classes)}),
        profile=json.dumps({part: len(images) for part, images in parts.items()}),
    )


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _numbers(row: Row) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in asdict(row).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _now() -> int:
    return int(time.time() * 1000)
