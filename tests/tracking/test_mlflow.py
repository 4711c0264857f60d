"""MLflow holds what a team asks of it, and its failure costs nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from src.contracts import DataSplits, Epoch, Row, RunDescription, TrackingError
from src.tracking.guard import Guard
from src.tracking.mlflow import MlflowTracker, finish_survey
from tests.broken_tracker import BreaksAtTheEnd
from tests.plans import experiment, plan


def tracker(uri: str, folder: Path, survey: Path | None = None) -> MlflowTracker:
    return MlflowTracker(
        uri=uri,
        system_metrics=False,
        config={"seed": 0, "method": {"sparsity": 0.8, "ignored": []}},
        command="python -m src.run method=prune_magnitude",
        folder=folder,
        survey=survey,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Path, DataSplits]:
    """Real rows and files of a tiny experiment."""
    folder = tmp_path_factory.mktemp("measured")
    made = experiment(plan("method=quantize_int8", "model.blocks=[[8]]", "model.dense=64"), folder)
    return made.run(), folder / "run", made.plan.data.value.load()


def test_a_survey_shows_as_a_parent_with_children_models_and_inputs(
    measured: tuple[list[Row], Path, DataSplits], tmp_path: Path
) -> None:
    rows, folder, splits = measured
    uri, survey = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "survey"
    survey.mkdir()
    for variant, own in (("baseline", rows[:1]), ("quantize_int8", rows)):
        member = tracker(uri, folder, survey)
        member.start(RunDescription("digits", variant, "small_cnn", 0, splits))
        member.epoch("baseline", Epoch(0, 1.5, 0.5, 0.6, 0.1, 2.0, 1.7e9))
        member.epoch("baseline", Epoch(1, 1.0, 0.7, 0.8, 0.1, 2.0, 1.7e9 + 2))
        member.rows(own, folder)
        member.finish("FINISHED")
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("digits")
    assert found is not None
    noted = client.get_run((survey / ".mlflow_parent").read_text().splitlines()[0])
    assert noted.info.status == "RUNNING"  # until the survey is over, whatever became of its members
    (survey / "survey.json").write_text("{}")
    finish_survey(survey, "FINISHED")
    assert [file.path for file in client.list_artifacts(noted.info.run_id)] == ["survey.json"]
    runs = {run.info.run_name: run for run in client.search_runs([found.experiment_id])}
    parent = runs[f"{survey.parent.name} {survey.name}"]
    child = runs["quantize_int8 small_cnn seed 0"]
    assert len(runs) == 3
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params["method.sparsity"] == "0.8"
    assert child.data.metrics["accuracy"] == rows[1].accuracy
    assert child.data.metrics["onnxruntime/size_bytes"] == rows[1].size_bytes
    assert child.data.metrics["baseline_onnxruntime/size_bytes"] == rows[0].size_bytes
    history = client.get_metric_history(child.info.run_id, "baseline/validation_accuracy")
    assert [(point.step, point.value) for point in history] == [(0, 0.6), (1, 0.8)]
    data = child.inputs.dataset_inputs[0].dataset
    assert (data.name, data.digest) == ("shapes", splits.checksum[:32])
    files = {item.path for item in client.list_artifacts(child.info.run_id)}
    assert {"baseline.onnxruntime.onnx", "quantize_int8.onnxruntime.onnx"} <= files

    smallest = client.search_logged_models(
        [found.experiment_id],
        filter_string="metrics.accuracy >= 0.0",
        order_by=[{"field_name": "metrics.size_bytes", "ascending": True}],
    )
    assert [model.name for model in smallest] == ["quantize_int8-onnxruntime", "baseline-onnxruntime"]
    import mlflow

    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{smallest[0].model_id}")
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 3, 16, 16)
    assert loaded.metadata.signature.outputs.inputs[0].shape == (-1, 10)
    assert loaded.predict(np.zeros((2, 3, 16, 16), np.float32))["logits"].shape == (2, 10)


def test_an_address_that_nothing_answers_is_found_out_within_seconds(splits: DataSplits, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError, match="Nothing answers at"):
        tracker("http://127.0.0.1:9", tmp_path).start(RunDescription("x", "baseline", "net", 0, splits))
    assert time.monotonic() - started < 20


def test_a_store_that_is_no_database_is_said_in_one_line(splits: DataSplits, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, and far too long to be an empty one" * 50)
    with pytest.raises(TrackingError, match="failed") as caught:
        tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path).start(RunDescription("x", "b", "n", 0, splits))
    assert len(str(caught.value).splitlines()) == 1


def test_a_guard_keeps_the_first_reason_and_calls_no_more(tmp_path: Path) -> None:
    guard = Guard(BreaksAtTheEnd())
    guard.rows([], tmp_path)
    guard.rows([], tmp_path)
    guard.finish("FINISHED")
    assert guard.failure == "the disk of the server is full"


def test_several_runs_may_open_a_new_store_at_once(splits: DataSplits, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            one = tracker(uri, tmp_path)
            one.start(RunDescription("x", f"variant{number}", "net", 0, splits))
            one.finish("FINISHED")
        except TrackingError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = MlflowClient(uri).get_experiment_by_name("x")
    assert found is not None
    assert len(MlflowClient(uri).search_runs([found.experiment_id])) == 3
