"""Results of a board in MLflow, beside the runs that made the models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.contracts import DeviceRow
from src.tracking.mlflow_store import PARENT_TAG, answering, connect, metric_key, milliseconds, one_at_a_time, runs_with


def log_device_rows(uri: str, digest: str, rows: Sequence[DeviceRow], file: Path) -> tuple[int, int]:
    """Make a run for each row, under the parent of the host's run, or under that run if it has no parent.

    See ``Tracker.device_rows``. No run is left unfinished.
    """
    made = 0
    with answering(uri), one_at_a_time():
        client, _ = connect(uri)
        hosts = {row.host_run: client.get_run(row.host_run) for row in rows}  # fails before anything is written
        for row in rows:
            identifying = {"device_results": digest, "device_model": row.name}
            found = runs_with(client, hosts[row.host_run].info.experiment_id, identifying)
            for half in found:
                if half.info.status != "FINISHED":  # left by a command that was killed
                    client.delete_run(half.info.run_id)
            if not any(run.info.status == "FINISHED" for run in found):
                _log(client, hosts[row.host_run], row, identifying, file)
                made += 1
    return made, len(rows) - made


def _log(client: Any, host: Any, row: DeviceRow, identifying: dict[str, str], file: Path) -> None:
    from mlflow.entities import Metric, Param

    parent = host.data.tags.get(PARENT_TAG, row.host_run)
    tags = {**row.tags, **identifying, "host_run": row.host_run, PARENT_TAG: parent}
    label = f"{row.tags['variant']} {row.tags['target']} on {row.tags['board']}"
    run = client.create_run(host.info.experiment_id, tags=tags, run_name=label).info.run_id
    try:
        params = [Param(metric_key(key), value) for key, value in row.tags.items()]
        now = milliseconds(time.time())
        metrics = [Metric(metric_key(key), value, now, 0) for key, value in row.metrics.items()]
        client.log_batch(run, params=params, metrics=metrics)
        client.log_artifact(run, str(file))
        client.set_terminated(run, "FINISHED")
    except BaseException:
        client.delete_run(run)
        raise
