"""A file that its runtime refused stands in its run, with the reason."""

from __future__ import annotations

import json
from pathlib import Path

from src.contracts import DataSplits, Refused
from src.tracking.guard import GuardedRun
from src.tracking.jsonl import JsonLines
from src.tracking.mlflow import MlflowTracker
from tests.conftest import MakeStore
from tests.tracking.rows import described

REFUSED = [Refused("prune", "openvino", "target.openvino: it broke", failed=True)]


def test_mlflow_has_a_tag(mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tracker = MlflowTracker(uri=mlflow_store(tmp_path), system_metrics=False)
    run = GuardedRun(tracker.start(described(splits, tmp_path, None, "prune")))
    run.refused(REFUSED)
    run.finish("FINISHED")
    tags = MlflowClient(tracking_uri=tracker.uri).get_run(run.run_id).data.tags
    assert tags["refused.prune.openvino"] == "target.openvino: it broke"


def test_a_file_of_lines_has_an_event(splits: DataSplits, tmp_path: Path) -> None:
    file = tmp_path / "tracking.jsonl"
    run = GuardedRun(JsonLines(uri=str(file)).start(described(splits, tmp_path, None, "prune")))
    run.refused(REFUSED)
    (line,) = (each for each in map(json.loads, file.read_text().splitlines()) if each["event"] == "refused")
    assert (line["run"], line["variant"], line["target"]) == (run.run_id, "prune", "openvino")
    assert line["reason"] == "target.openvino: it broke"
