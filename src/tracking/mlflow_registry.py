"""MLflow's registry of models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from src.contracts import Registration, TrackingError
from src.tracking.aliases import Tags
from src.tracking.mlflow_models import complete_model, ready
from src.tracking.mlflow_store import PLAIN, answering, connect
from src.tracking.registry import Registry

MODEL = re.compile(r"\bm-[0-9a-f]{32}\b")  # identifier of a logged model, in the address of its files
NO_ALIAS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")  # a database's answer, and a server's


class MlflowRegistry(Registry):
    """Versions point to the logged model of their file."""

    @property
    def _client(self) -> Any:
        return connect(self.uri)[0]

    def versions(self, name: str) -> Mapping[str, Tags]:
        with answering(self.uri):
            found = self._client.search_model_versions(_named(name))
            return {str(each.version): each.tags for each in found if each.name == name}

    def complete(self, name: str, version: str) -> bool:
        with answering(self.uri):
            client = self._client
            model = MODEL.search(client.get_model_version(name, version).source or "")
            return model is None or ready(client, model.group())  # a file from elsewhere is no logged model

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
            if chosen.name not in {each.name for each in client.search_registered_models(_named(chosen.name))}:
                client.create_registered_model(chosen.name)
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            model = complete_model(client, experiments, chosen.row)
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


def _named(name: str) -> str | None:
    """A filter for the registered model ``name``; None if a filter could misread it."""
    return f"name = '{name}'" if PLAIN.fullmatch(name) else None
