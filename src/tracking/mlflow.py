"""MLflow: a run for each member, a parent run for its survey or search, a logged model for each exported file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from src.contracts import (
    DataDescription,
    DeviceRow,
    LeftOpenError,
    RunDescription,
    TrackedRun,
    TrackedSearch,
    Tracker,
    TrackingError,
    first_line,
)
from src.tracking.comparing import compared_settings
from src.tracking.mlflow_moved import artifact_root
from src.tracking.mlflow_store import (
    KEY_TAG,
    PARENT_TAG,
    answering,
    connect,
    metric_key,
    milliseconds,
    one_at_a_time,
    runs_with,
)
from src.tracking.mlflow_view import LOCAL, address, write_views
from src.tracking.surveys import forget_parent, open_parent

if TYPE_CHECKING:
    from src.tracking.mlflow_run import MlflowRun

ADDRESS = "MLFLOW_TRACKING_URI"  # the variable by which MLflow's users name their store; conf/tracking reads it
PARAMS_AT_ONCE = 100
CONFIG = "config.yaml"  # of a run, whole, among its files


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

    def page(self, run_id: str | None) -> str | None:
        if run_id is None:
            return self.compare
        try:
            with answering(self.uri):
                client, _ = connect(self.uri)
                experiment = str(client.get_run(run_id).info.experiment_id)
        except TrackingError:  # the store does not answer any more; what it lacks is said elsewhere
            return self.compare
        if self.uri.startswith("http"):
            return address(self.uri, experiment)
        return f"{self.compare}, then {address(LOCAL, experiment)}"

    def start(self, run: RunDescription) -> TrackedRun:
        from src.tracking.mlflow_run import MlflowRun

        # One process at a time: two that create the same store, or log the same data set, crash each other.
        with answering(self.uri), one_at_a_time():
            client, notes = connect(self.uri)
            experiment = self._experiment(client, run.experiment)
            parent = self._parent(client, experiment, run)
            found = _earlier_run(client, experiment, run, parent)
            if found is None:
                name = f"{run.variant} {run.model} seed {run.seed}"
                tags, started = self._tags(run, parent), milliseconds(run.started)
                found = client.create_run(experiment, start_time=started, tags=tags, run_name=name)
            elif found.info.status != "RUNNING":
                client.update_run(found.info.run_id, status="RUNNING")
            opened = MlflowRun(client, self.uri, experiment, str(found.info.run_id), run, [*self._address(), *notes])
            self._complete(client, opened, found, run)
        return opened

    def _complete(self, client: Any, opened: MlflowRun, found: Any, run: RunDescription) -> None:
        """Log what a run does not have yet of its settings and its data set.

        Raises:
            LeftOpenError: That fails, and the run cannot be closed either.
        """
        from mlflow.entities import DatasetInput, InputTag

        try:
            _log_params(client, opened.run_id, compared_settings(run), found.data.params)
            client.log_dict(opened.run_id, dict(run.config), CONFIG)
            if found.inputs is None or not found.inputs.dataset_inputs:
                used = DatasetInput(_dataset(run.data), [InputTag("mlflow.data.context", "train, test")])
                client.log_inputs(opened.run_id, [used])
            if self.system_metrics:
                opened.monitor()
        except BaseException as error:
            try:
                opened.finish("FAILED")
            except TrackingError:  # the first error is the one to report
                raise LeftOpenError(f"MLflow at {self.uri} failed: {first_line(error)[:300]}") from error
            raise

    def _address(self) -> list[str]:
        """Which address counts, if the environment names one."""
        given = os.environ.get(ADDRESS)
        if not given:
            return []
        if given == self.uri:
            return [f"Tracked at {self.uri}, as {ADDRESS} says."]
        return [f"Tracked at tracking.uri={self.uri}; {ADDRESS}={given} does not count."]

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
        if found is None:
            root = artifact_root(self.uri)
            location = f"{root}{quote(name)}" if root is not None else None
            # This kind shows MLflow's pages for model training, not those for language models.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            client.create_experiment(name, artifact_location=location, tags=tags)
            found = client.get_experiment_by_name(name)
        write_views(client, found)
        return str(found.experiment_id)

    def _parent(self, client: Any, experiment: str, run: RunDescription) -> str | None:
        """Find the survey's run, or create it for its first member; None for a single run."""
        survey = run.survey
        if survey is None:
            return None

        def opened(key: str) -> str:
            tags = {
                "folder": str(survey),
                "mlflow.source.git.commit": run.git_commit or "",
                "mlflow.source.type": "LOCAL",
                KEY_TAG: key,
            }
            found = runs_with(client, experiment, {KEY_TAG: key})
            if not found:
                name = f"{survey.parent.name} {survey.name}"
                started = milliseconds(run.started)
                found = [client.create_run(experiment, start_time=started, tags=tags, run_name=name)]
            return str(found[0].info.run_id)

        return open_parent(survey, self.uri, opened)

    def _tags(self, run: RunDescription, parent: str | None) -> dict[str, str]:
        return {
            "variant": run.variant,
            "model": run.model,
            "data": run.data.name,
            "mlflow.source.name": run.command,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": run.git_commit or "",
            "folder": str(run.folder),
            KEY_TAG: run.key,
            **{f"version.{name}": version for name, version in run.versions.items()},
            **self.tags,
            **({PARENT_TAG: parent} if parent is not None else {}),
        }


def _earlier_run(client: Any, experiment: str, run: RunDescription, parent: str | None) -> Any:
    """The run of the same key, or the member's run of the same folder and variant, to resume; None if there is none."""
    found = runs_with(client, experiment, {KEY_TAG: run.key})
    if not found and parent is not None:
        members = runs_with(client, experiment, {PARENT_TAG: parent, "variant": run.variant})
        # By its name: a survey may have been moved.
        found = [each for each in members if Path(each.data.tags.get("folder", "")).name == run.folder.name]
    return found[0] if found else None


def _log_params(client: Any, run_id: str, settings: Mapping[str, str], logged: Mapping[str, str]) -> None:
    """Log each setting as a parameter, but those that are logged."""
    from mlflow.entities import Param

    named = {metric_key(key): value for key, value in settings.items()}
    params = [Param(key, value) for key, value in named.items() if key not in logged]
    if params:
        client.log_batch(run_id, params=params[:PARAMS_AT_ONCE])


def _dataset(data: DataDescription) -> Any:
    """The data set as MLflow names it, with its checksum as digest."""
    from mlflow.entities import Dataset

    return Dataset(
        name=data.name,
        digest=data.checksum[:32],
        source_type="local",
        source=json.dumps({"uri": data.name, "sha256": data.checksum}),
        schema=json.dumps({"image": ["uint8", list(data.image_shape)], "classes": list(data.classes)}),
        profile=json.dumps(dict(data.images)),
    )
