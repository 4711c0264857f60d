"""MLflow holds what a team needs of a run, and says in one line what it cannot do."""

from __future__ import annotations

import functools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from mlflow import MlflowClient
from omegaconf import OmegaConf

from src.contracts import DataSplits, Epoch, TrackingError, TrialRecord
from src.tracking.guard import finish_survey
from src.tracking.mlflow import MlflowTracker
from tests.conftest import MakeStore
from tests.tracking.rows import described, row


def tracker(uri: str, **more: object) -> MlflowTracker:
    return MlflowTracker(uri=uri, system_metrics=False, **more)  # type: ignore[arg-type]


def test_a_survey_is_a_parent_with_children_models_and_inputs(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path
) -> None:
    uri, survey, folder = mlflow_store(tmp_path), tmp_path / "survey", tmp_path / "survey" / "member"
    folder.mkdir(parents=True)
    rows = [row(folder, "baseline"), row(folder, "quantize_int8", size_bytes=400, accuracy=0.8)]
    for variant, own in (("baseline", rows[:1]), ("quantize_int8", rows)):
        member = tracker(uri).start(described(splits, folder, survey, variant))
        member.epoch("baseline", Epoch(0, 1.5, 0.5, 0.6, 0.1, 2.0, 1.7e9))
        member.epoch("baseline", Epoch(1, 1.0, 0.7, 0.8, 0.1, 2.0, 1.7e9 + 2))
        member.rows(own, folder)
        member.finish("FINISHED")
    client = MlflowClient(uri)
    found = client.get_experiment_by_name("digits")
    assert found is not None
    noted = client.get_run((survey / ".mlflow_parent").read_text().splitlines()[0])
    assert noted.info.status == "RUNNING"  # until the survey is over, even if all members are finished
    (survey / "survey.json").write_text("{}")
    finish_survey(tracker(uri), survey, "FINISHED", tmp_path / "artifacts")
    assert [file.path for file in client.list_artifacts(noted.info.run_id)] == ["survey.json"]
    runs = {run.info.run_name: run for run in client.search_runs([found.experiment_id])}
    parent = runs[f"{survey.parent.name} {survey.name}"]
    child = runs["quantize_int8 small_cnn seed 0"]
    assert len(runs) == 3
    assert all(run.info.status == "FINISHED" for run in runs.values())
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["mlflow.source.name"] == "python -m src.run method=prune_magnitude"
    assert child.data.params["sparsity"] == "0.8"
    assert child.data.metrics["accuracy"] == rows[1].accuracy
    assert child.data.metrics["targets/onnxruntime/size_bytes"] == rows[1].size_bytes
    assert child.data.metrics["targets/onnxruntime/baseline/size_bytes"] == rows[0].size_bytes
    history = client.get_metric_history(child.info.run_id, "training/baseline/validation_accuracy")
    assert [(point.step, point.value) for point in history] == [(0, 0.6), (1, 0.8)]
    data = child.inputs.dataset_inputs[0].dataset
    assert (data.name, data.digest) == ("shapes", splits.checksum[:32])
    files = {item.path for item in client.list_artifacts(child.info.run_id)}
    assert {"baseline.onnxruntime.onnx", "quantize_int8.onnxruntime.onnx"} <= files
    loads(uri, found.experiment_id)


def loads(uri: str, experiment: str) -> None:
    """The smallest model of an experiment is found by its size, and loads with its signature."""
    smallest = MlflowClient(uri).search_logged_models(
        [experiment],
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


def test_a_run_that_resumes_logs_its_rows_again(mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path) -> None:
    """Its models are linked already, which MLflow refuses to do twice."""
    uri, survey = mlflow_store(tmp_path), tmp_path / "survey"
    for accuracy in (0.8, 0.9):
        run = tracker(uri).start(described(splits, survey / "member", survey, "prune"))
        run.rows([row(survey / "member", "prune", sha256="same", accuracy=accuracy)], survey / "member")
        run.finish("FINISHED")
        metrics = MlflowClient(uri).get_run(run.run_id).data.metrics
        assert metrics["targets/onnxruntime/accuracy"] == accuracy


def test_a_trial_that_was_half_written_is_logged_again(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path
) -> None:
    uri, folder = mlflow_store(tmp_path), tmp_path / "search"
    tracker(uri).start(described(splits, folder / "baseline", folder, "baseline")).finish("FINISHED")
    record = TrialRecord(0, {"a:b": 1}, {"size_bytes": 100.0}, {"within_budget": "true"}, False, 1.7e9, 1.7e9 + 5)
    search = tracker(uri, tags={"stage": "mine"}).search(folder)
    search.trials([record])
    client = MlflowClient(uri)
    (experiment,) = [each.experiment_id for each in client.search_experiments() if each.name == "digits"]
    (trial,) = client.search_runs([experiment], "tags.trial = '0'")
    assert (trial.data.params, trial.data.tags["stage"]) == ({"a/b": "1"}, "mine")
    client.update_run(trial.info.run_id, status="RUNNING")  # as if the command was killed while it was written
    tracker(uri).search(folder).trials([record])
    (again,) = client.search_runs([experiment], "tags.trial = '0'")
    assert again.info.run_id != trial.info.run_id
    assert again.info.status == "FINISHED"


def test_an_address_that_nothing_answers_is_found_within_seconds(splits: DataSplits, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError, match="Nothing answers at"):
        tracker("http://127.0.0.1:9").start(described(splits, tmp_path, None, "baseline"))
    assert time.monotonic() - started < 20


def test_a_store_that_is_no_database_is_reported_in_one_line(splits: DataSplits, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, and far too long to be an empty one" * 50)
    with pytest.raises(TrackingError, match="failed") as caught:
        tracker(f"sqlite:///{tmp_path / 'mlflow.db'}").start(described(splits, tmp_path, None, "baseline"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_that_cannot_be_opened_completely_is_failed(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = mlflow_store(tmp_path)

    def refuse(*arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(MlflowClient, "log_inputs", refuse)
    with pytest.raises(TrackingError, match="the disk is full"):
        tracker(uri).start(described(splits, tmp_path / "run", None, "baseline"))
    (experiment,) = [each.experiment_id for each in MlflowClient(uri).search_experiments() if each.name == "digits"]
    assert [run.info.status for run in MlflowClient(uri).search_runs([experiment])] == ["FAILED"]


def test_several_runs_may_open_a_new_store_at_once(splits: DataSplits, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            tracker(uri).start(described(splits, tmp_path, None, f"variant{number}")).finish("FINISHED")
        except TrackingError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = MlflowClient(uri).get_experiment_by_name("digits")
    assert found is not None
    assert len(MlflowClient(uri).search_runs([found.experiment_id])) == 3


@pytest.mark.parametrize(
    ("uri", "compare"),
    [
        ("http://tracking:5000", "http://tracking:5000"),
        ("sqlite:///mlflow.db", "bin/mlflow ui --backend-store-uri sqlite:///mlflow.db"),
    ],
)
def test_runs_are_compared_on_a_servers_page_or_by_a_command(
    uri: str, compare: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    assert tracker(uri).compare == compare


def test_a_config_of_earlier_versions_builds_the_same_tracker() -> None:
    config = OmegaConf.to_container(OmegaConf.load("conf/tracking/mlflow.yaml"))
    assert isinstance(config, dict)
    made = instantiate(config, _convert_="all")
    partial = instantiate({**config, "_partial_": True}, _convert_="all")
    assert isinstance(partial, functools.partial)
    assert vars(partial()) == vars(made)
    assert made.uri == "sqlite:///mlflow.db"
