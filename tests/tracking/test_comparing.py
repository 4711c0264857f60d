"""What MLflow's page shows without a click: parameters that people compare, deciding figures first, a view of ours."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from src.contracts import DataSplits, Epoch
from src.tracking.comparing import compared_settings, decisive_figures
from src.tracking.guard import finish_survey
from src.tracking.mlflow import MlflowTracker
from src.tracking.mlflow_view import KEY, SMALLEST, TAG
from tests.conftest import MakeStore
from tests.tracking.rows import described, row

CHAIN = {
    "_target_": "src.methods.chain.Chain",
    "steps": {
        "prune": {"sparsity": 0.9, "fine_tune": None},
        "cluster": {"clusters": 16, "keep": {"sparsity": True}},
        "again": {"sparsity": 0.95},
    },
}


def test_a_run_is_compared_by_what_people_compare_and_by_nothing_that_is_null(
    splits: DataSplits, tmp_path: Path
) -> None:
    line = "python -m src.run method=deep +experiment=e training.epochs=2 method.steps.prune.sparsity=0.9 data.root=/x"
    line += " 'tracking.uri=sqlite\\:///m.db' artifacts=a ++training.loss.weight=null hydra.mode=RUN seed=3"
    config = {"method": CHAIN, "target": {"onnxruntime": {}, "tflite": {}}, "seed": 3}
    run = replace(described(splits, tmp_path, None, "deep"), command=line, config=config, seed=3)
    assert compared_settings(run) == {
        "data": "shapes",
        "model": "small_cnn",
        "method": "deep",
        "target": "onnxruntime+tflite",
        "seed": "3",
        "sparsity": "0.9, 0.95",
        "clusters": "16",
        "training.epochs": "2",
    }
    assert compared_settings(replace(run, command="an 'open quotation", config={}))["method"] == "deep"


def test_figures_that_decide_are_all_of_one_file(tmp_path: Path) -> None:
    one = row(tmp_path, "prune", accuracy_change=-0.01, latency_ms_p50=None)
    figures = decisive_figures(one)
    assert figures == {
        **{name: float(getattr(one, name)) for name in ("accuracy", "accuracy_validation", "size_bytes")},
        **{"accuracy_change": -0.01, "size_gzip_bytes": 500.0, "bits_per_weight": 8.0},
    }


def test_the_page_opens_with_our_columns_and_charts_and_the_parent_has_figures_and_a_description(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path
) -> None:
    uri, survey = mlflow_store(tmp_path), tmp_path / "survey"
    tracker = MlflowTracker(uri=uri, system_metrics=False)
    member = tracker.start(described(splits, survey / "member", survey, "prune"))
    member.epoch("baseline", Epoch(0, 1.5, 0.5, 0.6, 0.1, 2.0, 1.7e9))
    one = row(survey / "member", "prune", parameters=100, nonzero_parameters=25)
    member.rows([one], survey / "member")
    member.finish("FINISHED")
    (survey / "report.html").write_text("<p>")
    (survey / "table.csv").write_text("row\n")
    long = "".join(f"| row {number} | 98.05 % |\n" for number in range(1000))
    (survey / "report.md").write_text(f"# digits\n\n{long}\n### Layers of prune\n")
    finish_survey(tracker, survey, "FINISHED", tmp_path / "artifacts", decisive_figures(one))
    client = MlflowClient(uri)
    run = client.get_run(str(member.run_id))
    assert run.data.params == {
        **{"data": "shapes", "model": "small_cnn", "method": "prune", "seed": "0", "sparsity": "0.8", "bits": "8"}
    }
    assert {"config.yaml"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    assert run.data.metrics["sparsity"] == 0.75
    order = sorted(run.data.metrics)
    decisive = [order.index(name) for name in (*decisive_figures(one), "sparsity")]
    others = [at for at, name in enumerate(order) if name.startswith(("training/", "targets/"))]
    assert max(decisive) < min(others)
    assert len(others) > 10
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.metrics == decisive_figures(one)
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("# digits\n")
    assert note.endswith("%| |\n".replace("%| ", "% "))
    assert len(note) <= 7000
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "report.md", "table.csv"} <= files
    view = view_of(client, run.info.experiment_id)
    named = {key.partition("`")[2].rstrip("`") for key in view["selectedColumns"]}
    assert named <= {*run.data.params, *run.data.metrics, "accuracy_change", "compression_ratio"}
    assert {chart["type"] for chart in view["compareRunCharts"]} == {"SCATTER", "PARALLEL", "BAR"}
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == sections
    smallest = view_of(client, run.info.experiment_id, SMALLEST)
    assert (smallest["searchFilter"], smallest["orderByAsc"]) == ("metrics.accuracy > 0.98", True)
    found = client.search_runs([run.info.experiment_id], smallest["searchFilter"], order_by=["metrics.size_bytes ASC"])
    assert all(each.data.metrics["accuracy"] > 0.98 for each in found)
    address = f"/#/experiments/{run.info.experiment_id}/runs?viewStateShareKey={KEY}"
    assert (tracker.page(run.info.run_id) or "").endswith(address)
    assert tracker.page(None) == tracker.compare


def view_of(client: MlflowClient, experiment: str, key: str = KEY) -> Any:
    """The view as MLflow's page reads it: JSON, whose state is deflated and in base 64."""
    content = json.loads(client.get_experiment(experiment).tags[TAG + key])
    kind, _, state = content["state"].partition(";")
    assert (kind, content["name"]) == ("deflate", {KEY: "Compression", SMALLEST: "Smallest above 98 %"}[key])
    return json.loads(zlib.decompress(base64.b64decode(state)))


def test_a_view_that_is_there_is_left_as_it_is(mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path) -> None:
    uri = mlflow_store(tmp_path)
    tracker = MlflowTracker(uri=uri, system_metrics=False)
    tracker.start(described(splits, tmp_path / "one", None, "prune")).finish("FINISHED")
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("digits")
    assert found is not None
    tracker.start(described(splits, tmp_path / "two", None, "prune")).finish("FINISHED")
    again = client.get_experiment(found.experiment_id)
    assert again.tags[TAG + KEY] == found.tags[TAG + KEY]
    client.set_experiment_tag(found.experiment_id, TAG + KEY, "of somebody else")
    tracker.start(described(splits, tmp_path / "three", None, "prune")).finish("FINISHED")
    assert "columns" in str(view_of(client, found.experiment_id)).lower()
