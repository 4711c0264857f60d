"""MLflow's registry of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.contracts import Registration, TrackingError
from src.tracking.aliases import Tags
from src.tracking.mlflow_run import logged_model
from src.tracking.mlflow_store import answering
from src.tracking.registry import Registry

NO_ALIAS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")  # a database's answer, and a server's


class MlflowRegistry(Registry):
    """Versions point to the logged model of their file."""

    @property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def versions(self, name: str) -> Mapping[str, Tags]:
        with answering(self.uri):
            return {str(each.version): each.tags for each in self._client.search_model_versions(f"name = '{name}'")}

    def holder(self, name: str, alias: str) -> str | None:
        from mlflow.exceptions import MlflowException

        with answering(self.uri):
            try:
                return str(self._client.get_model_version_by_alias(name, alias).version)
            except MlflowException as error:
                if error.error_code in NO_ALIAS:
                    return None
                raise

    def move(self, name: str, alias: str, version: str) -> None:
        with answering(self.uri):
            self._client.set_registered_model_alias(name, alias, version)

    def add(self, chosen: Registration, tags: Tags, card: str) -> str:
        with answering(self.uri):
            client = self._client
            if not client.search_registered_models(filter_string=f"name = '{chosen.name}'"):
                client.create_registered_model(chosen.name)
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            model = logged_model(client, experiments, chosen.row)
            if model is None:
                raise TrackingError(f"the model registry at {self.uri} has no logged model of {chosen.row.artifact}")
            version = client.create_model_version(
                chosen.name,
                source=model.artifact_location,
                run_id=model.source_run_id,
                tags=dict(tags),
                description=card,
                model_id=model.model_id,
            )
            return str(version.version)
