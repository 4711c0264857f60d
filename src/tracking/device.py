"""What a board measured, beside the runs of the host that made the models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.tracking.mlflow import _now, answering

BUNDLES = ".bundles"  # what src.bundle remembers, in the folder of stages (where a name with a dot is no stage)


@dataclass(frozen=True)
class DeviceRow:
    """A model measured on a board.

    Attributes:
        host_run: The run that made the model, in the tracking store.
        name: Of the model in its bundle.
        metrics: Numbers by MLflow's name.
        tags: What is known of the model and the board.
    """

    host_run: str
    name: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def log_device_rows(uri: str, digest: str, rows: Sequence[DeviceRow], file: Path) -> tuple[int, int]:
    """Make a run for each row, under the parent of the host's run, or under that run where it has none.

    Args:
        uri: Of the tracking store.
        digest: Of what was imported; rows of a digest that are there already are not made again.
        rows: All of one import.
        file: The imported file, kept with each run.

    Returns:
        How many were made, and how many were there already.

    Raises:
        TrackingError: The store refuses, or has a host's run no longer; no run is left unfinished.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    made = 0
    with answering(uri):
        client = MlflowClient(tracking_uri=uri)
        hosts = {row.host_run: client.get_run(row.host_run) for row in rows}  # before anything is written
        for row in rows:
            host = hosts[row.host_run]
            identifying = {"device_results": digest, "device_model": row.name}
            wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identifying.items())
            if client.search_runs(
                [host.info.experiment_id], f"{wanted} and attributes.status = 'FINISHED'", max_results=1
            ):
                continue
            parent = host.data.tags.get("mlflow.parentRunId", row.host_run)
            tags = {**row.tags, **identifying, "host_run": row.host_run, "mlflow.parentRunId": parent}
            label = f"{row.tags['variant']} {row.tags['target']} on {row.tags['board']}"
            run = client.create_run(host.info.experiment_id, tags=tags, run_name=label).info.run_id
            try:
                params = [Param(key, value) for key, value in row.tags.items()]
                metrics = [Metric(key, value, _now(), 0) for key, value in row.metrics.items()]
                client.log_batch(run, params=params, metrics=metrics)
                client.log_artifact(run, str(file))
                client.set_terminated(run, "FINISHED")
            except BaseException:
                client.delete_run(run)
                raise
            made += 1
    return made, len(rows) - made


def digest_of(content: Mapping[str, Any]) -> str:
    """Names a results file by what it says, however it is written: 16 hexadecimal digits."""
    import hashlib

    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
