"""MLflow: a run for each member, a parent run for its survey or search, a logged model for each exported file."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.contracts import DataSplits, DeviceRow, RunDescription, TrackedRun, TrackedSearch, Tracker
from src.tracking.mlflow_store import PARENT_TAG, all_of, answering
from src.tracking.provenance import git_commit, versions
from src.tracking.surveys import Parent, forget_parent, read_parent, write_parent

SQLITE = "sqlite:///"
LOCK = Path(tempfile.gettempdir()) / "dnn-compression-mlflow.lock"
LONGEST_PARAM = 6000  # MLflow refuses longer ones; the whole config is an artifact, too
PARAMS_AT_ONCE = 100


class MlflowTracker(Tracker):
    """Logs to one MLflow store.

    Args:
        uri: ``sqlite:///mlflow.db``, or the address of a server.
        system_metrics: Whether to log the use of processor and memory while a run is open.
        tags: More tags of each run.
    """

    def __init__(self, *, uri: str, system_metrics: bool, tags: Mapping[str, str] | None = None) -> None:
        self.uri: str = uri
        self.system_metrics, self.tags = system_metrics, dict(tags or {})

    @property
    def compare(self) -> str:
        if self.uri.startswith("http"):
            return self.uri
        program = str(Path(sys.executable).parent / "mlflow").removeprefix(f"{Path.cwd()}/")
        return f"{program} ui --backend-store-uri {self.uri}"

    def start(self, run: RunDescription) -> TrackedRun:
        from filelock import FileLock
        from mlflow import MlflowClient
        from mlflow.entities import DatasetInput, InputTag

        from src.tracking.mlflow_run import MlflowRun

        # One process at a time: two that create the same store, or log the same data set, crash each other.
        with answering(self.uri), FileLock(LOCK, mode=0o666):
            client = MlflowClient(tracking_uri=self.uri)
            experiment = self._experiment(client, run.experiment)
            parent = self._parent(client, experiment, run.survey)
            dataset = _dataset(run.data)
            run_id = _earlier_run(client, experiment, run, parent)
            found = run_id is not None
            if run_id is None:
                name = f"{run.variant} {run.model} seed {run.seed}"
                run_id = str(client.create_run(experiment, tags=self._tags(run, parent), run_name=name).info.run_id)
            opened = MlflowRun(client, self.uri, experiment, run_id, run)
            try:
                if not found:
                    _log_params(client, run_id, run.config)
                    used = DatasetInput(dataset, [InputTag("mlflow.data.context", "train, test")])
                    client.log_inputs(run_id, [used])
                if self.system_metrics:
                    opened.monitor()
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to report
                    opened.finish("FAILED")
                raise
        return opened

    def finish_survey(self, survey: Path, status: str) -> None:
        parent = read_parent(survey, self.uri)
        if parent is None:
            return
        from mlflow import MlflowClient

        with answering(self.uri):
            client = MlflowClient(tracking_uri=self.uri)
            client.log_artifact(parent.run_id, str(survey / "survey.json"))
            client.set_terminated(parent.run_id, status)

    def search(self, folder: Path) -> TrackedSearch:
        from src.tracking.mlflow_search import MlflowSearch

        return MlflowSearch(self.uri, folder, self.tags)

    def forget(self, folder: Path) -> None:
        forget_parent(folder)

    def promote(self, name: str, version: str, alias: str) -> tuple[bool, str]:
        from src.tracking.mlflow_registry import MlflowRegistry

        return MlflowRegistry(self.uri).promote(name, version, alias)

    def device_rows(self, digest: str, rows: Sequence[DeviceRow], file: Path) -> tuple[int, int]:
        from src.tracking.mlflow_device import log_device_rows

        return log_device_rows(self.uri, digest, rows, file)

    def _experiment(self, client: Any, name: str) -> str:
        """Find or create the MLflow experiment ``name``; return its identifier."""
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self.uri.startswith(SQLITE):
            location = (Path(self.uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts" / name).as_uri()
        # This kind shows MLflow's pages for model training, not those for language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=location, tags=tags))

    def _parent(self, client: Any, experiment: str, survey: Path | None) -> str | None:
        """Find the survey's run, or create it for its first member; None for a single run."""
        if survey is None:
            return None
        parent = read_parent(survey, self.uri)
        if parent is None:
            tags = {
                "folder": str(survey),
                "mlflow.source.git.commit": git_commit() or "",
                "mlflow.source.type": "LOCAL",
            }
            created = client.create_run(experiment, tags=tags, run_name=f"{survey.parent.name} {survey.name}")
            parent = Parent(str(created.info.run_id), self.uri)
            write_parent(survey, parent)
        return parent.run_id

    def _tags(self, run: RunDescription, parent: str | None) -> dict[str, str]:
        return {
            "variant": run.variant,
            "model": run.model,
            "data": run.data.name,
            "mlflow.source.name": run.command,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": git_commit() or "",
            "folder": str(run.folder),
            **{f"version.{name}": version for name, version in versions().items()},
            **self.tags,
            **({PARENT_TAG: parent} if parent is not None else {}),
        }


def _earlier_run(client: Any, experiment: str, run: RunDescription, parent: str | None) -> str | None:
    """The member's run of the same folder, variant and parent, which resumes; None if there is none."""
    if parent is None:
        return None
    wanted = all_of("tags", {PARENT_TAG: parent, "folder": run.folder, "variant": run.variant})
    found = client.search_runs([experiment], wanted, max_results=1)
    return str(found[0].info.run_id) if found else None


def _log_params(client: Any, run_id: str, config: Mapping[str, Any]) -> None:
    """Log each setting of the config as a parameter."""
    from mlflow.entities import Param

    params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in _settings(config)]
    for start in range(0, len(params), PARAMS_AT_ONCE):
        client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])


def _settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting of a nested config by its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _dataset(data: DataSplits) -> Any:
    """The data set as MLflow names it, with its checksum as digest."""
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
