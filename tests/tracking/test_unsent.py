"""Logging that was cut off anywhere is completed, and nothing stands in the store twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from src.command.syncing import sync
from src.contracts import DataSplits, Epoch, TrackingError
from src.files.owner import owning
from src.tracking.guard import GuardedRun, GuardedSearch
from src.tracking.jsonl import JsonLines
from src.tracking.mlflow import MlflowTracker
from src.tracking.unsent import UNSENT, Unsent, journals_in, journals_of
from tests.conftest import MakeStore
from tests.tracking.killed import TRIALS, kill_before, log_everything, tracker
from tests.tracking.rows import described, row

EPOCH = Epoch(0, 1.5, 0.5, 0.6, 0.1, 2.0, 1.7e9)


def content(uri: str) -> dict[str, Any]:
    """All that a store of MLflow's holds, without what differs each time: identifiers and times of its own clock."""
    client = MlflowClient(uri)
    experiments = {each.experiment_id: each.name for each in client.search_experiments()}
    found = client.search_runs(list(experiments))
    names = {run.info.run_id: run.info.run_name for run in found}
    runs = sorted((_run(client, run, names) for run in found), key=lambda run: run["name"])
    models = [_model(client, model, names) for model in client.search_logged_models(list(experiments))]
    versions = [(v.version, v.tags, v.aliases) for v in client.search_model_versions()]
    return {"runs": runs, "models": sorted(models, key=str), "versions": versions}


def _run(client: MlflowClient, run: Any, names: dict[str, str]) -> dict[str, Any]:
    run_id, tags = run.info.run_id, dict(run.data.tags)
    models = run.outputs.model_outputs if run.outputs is not None else []
    points = {
        key: sorted((p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, key))
        for key in run.data.metrics
    }
    if "trial_seconds" in points:  # of the search: MLflow's own clock
        points["trial_seconds"] = [(step, value, 0) for step, value, _ in points["trial_seconds"]]
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "parent": names.get(tags.pop("mlflow.parentRunId", "")),
        "params": run.data.params,
        "latest": run.data.metrics,
        "points": points,
        "tags": {key: value for key, value in tags.items() if key not in ("run_key", "folder")},
        "data": [each.dataset.name for each in run.inputs.dataset_inputs] if run.inputs is not None else [],
        "models": sorted(client.get_logged_model(each.model_id).name for each in models),
        "files": sorted(file.path for file in client.list_artifacts(run_id)),
    }


def _model(client: MlflowClient, model: Any, names: dict[str, str]) -> tuple[Any, ...]:
    metrics = {(metric.key, metric.value) for metric in client.get_logged_model(model.model_id).metrics}
    files = sorted(file.path for file in client.list_logged_model_artifacts(model.model_id))
    return model.name, str(model.status), names[model.source_run_id], sorted(metrics), files


def killed(work: Callable[[], object]) -> bool:
    """Whether ``work``, done in a process of its own, was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.slow
def test_logging_that_is_killed_before_any_write_is_completed_and_nothing_is_doubled(
    mlflow_store: MakeStore, tmp_path: Path
) -> None:
    """Killed before each write in turn: sent, and then logged again by the same command."""

    def work(root: Path, uri: str, number: int) -> None:
        made = kill_before(number)
        log_everything(root, tracker("mlflow", uri), "mlflow")
        (root / "writes").write_text(str(len(made)))

    def prepared(name: str) -> tuple[Path, str]:
        root = tmp_path / name / "project"
        root.mkdir(parents=True)
        return root, mlflow_store(root)

    root, uri = prepared("undisturbed")
    assert not killed(lambda: work(root, uri, 0))
    expected, writes = content(uri), int((root / "writes").read_text())
    assert writes > 20
    assert len(expected["models"]) == 2
    for number in range(1, writes + 1):
        root, uri = prepared(str(number))
        assert killed(lambda root=root, uri=uri, number=number: work(root, uri, number))
        if number % 2:  # by ``src.sync`` first, or at once by the same command
            assert sync([], root / "artifacts")[0] == 0
        assert not killed(lambda root=root, uri=uri: work(root, uri, 0))
        assert sync([], root / "artifacts")[0] == 0
        assert content(uri) == expected, number
        assert journals_of(root / "artifacts") == Unsent([], [], [])
        shutil.rmtree(root)


def test_a_run_whose_results_are_complete_is_completed_by_sync_alone(mlflow_store: MakeStore, tmp_path: Path) -> None:
    uri = mlflow_store(tmp_path)

    def work() -> None:
        from mlflow import MlflowClient

        MlflowClient.finalize_logged_model = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        log_everything(tmp_path, tracker("mlflow", uri), "mlflow")

    assert killed(work)
    before = content(uri)
    assert ([run["status"] for run in before["runs"]], before["models"][0][1]) == (["RUNNING", "RUNNING"], "PENDING")
    assert sync([], tmp_path / "artifacts")[0] == 0
    after = content(uri)
    statuses = {run["name"]: run["status"] for run in after["runs"]}
    assert statuses == {"prune small_cnn seed 0": "FINISHED", f"{tmp_path.name} search": "KILLED"}
    assert [(name, status) for name, status, *_ in after["models"]] == [
        ("baseline-onnxruntime", "READY"),
        ("prune-onnxruntime", "READY"),
    ]
    (member,) = (run for run in after["runs"] if run["parent"] is not None)
    assert member["latest"]["accuracy"] == 0.8


@pytest.mark.slow
def test_lines_that_are_cut_off_anywhere_are_completed_and_nothing_is_doubled(tmp_path: Path) -> None:
    def logged(root: Path, at: int | None = None, kept: int = 0) -> list[dict[str, Any]]:
        """The events; if ``at`` is given, of a file that was cut off in that line, with ``kept`` bytes of it left."""
        file = root / "tracking.jsonl"
        root.mkdir()
        log_everything(root, JsonLines(uri=str(file)), "jsonl")
        if at is not None:
            lines = file.read_bytes().splitlines(keepends=True)
            file.write_bytes(b"".join(lines[:at]) + lines[at][:kept])
            (root / "search" / ".mlflow_parent").write_text((root / "search" / ".mlflow_parent").read_text())
            log_everything(root, JsonLines(uri=str(file)), "jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]

    def shown(events: list[dict[str, Any]]) -> list[Any]:
        kinds = ("run_started", "epoch", "row", "survey_started", "trial", "registration", "alias_moved")
        identifying = ("epoch", "row", "number", "name", "alias", "version", "variant")
        lines = [[e["event"], *(e.get(key) for key in identifying)] for e in events if e["event"] in kinds]
        return sorted(lines, key=str)

    whole = logged(tmp_path / "whole")
    for at in range(1, len(whole)):  # the first, the survey's own, was written before its folder named it
        for kept in (0, 3, -2, -1):
            events = logged(tmp_path / f"{at} {kept}", at, kept)
            assert [each["event"] for each in events][-1] == "survey_finished"
            assert shown(events) == shown(whole), (at, kept)


def start(used: MlflowTracker | JsonLines, splits: DataSplits, folder: Path, survey: Path | None = None) -> GuardedRun:
    name = "jsonl" if isinstance(used, JsonLines) else "mlflow"
    return GuardedRun.start(used, described(splits, folder, survey, "prune"), folder.parent / "artifacts", name)


def statuses(uri: str) -> list[str]:
    client = MlflowClient(uri)
    return sorted(run.info.status for run in client.search_runs([e.experiment_id for e in client.search_experiments()]))


def test_runs_without_a_living_owner_are_ended_and_others_are_left(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path
) -> None:
    uri = mlflow_store(tmp_path)
    used = MlflowTracker(uri=uri, system_metrics=False)
    start(used, splits, tmp_path / "dead").epoch("baseline", EPOCH)  # and killed
    start(used, splits, tmp_path / "alive")
    with owning(tmp_path / "alive"):
        waits = f"{tmp_path / 'alive'} is at work; what it logs is sent when it has ended."
        assert sync([], tmp_path / "artifacts") == (0, [f"Sent 1 earlier run to {uri}", waits])
        assert statuses(uri) == ["KILLED", "RUNNING"]
    assert sync([tmp_path / "alive"], tmp_path / "artifacts")[0] == 0
    assert statuses(uri) == ["KILLED", "KILLED"]
    assert sync([], tmp_path / "artifacts") == (0, ["Nothing is left to send."])
    ended = [run.info.end_time for run in MlflowClient(uri).search_runs(["1"])]
    assert all(ended)


def test_a_journal_whose_folder_is_gone_is_said_once(splits: DataSplits, tmp_path: Path) -> None:
    start(JsonLines(uri=str(tmp_path / "tracking.jsonl")), splits, tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    _, lines = sync([], tmp_path / "artifacts")
    assert any(line.endswith("gone is gone, and with it what the tracking store lacks of it.") for line in lines)
    assert sync([], tmp_path / "artifacts") == (0, ["Nothing is left to send."])


def test_a_project_that_was_moved_still_knows_what_is_unsent(splits: DataSplits, tmp_path: Path) -> None:
    start(JsonLines(uri=str(tmp_path / "tracking.jsonl")), splits, tmp_path / "old" / "run")
    (tmp_path / "old").rename(tmp_path / "new")
    assert sync([], tmp_path / "new" / "artifacts")[0] == 0
    events = [json.loads(line) for line in (tmp_path / "tracking.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["run_started", "run_resumed", "run_finished"]
    assert events[-1]["status"] == "KILLED"


def test_what_a_store_did_not_take_is_sent_later_with_its_figures(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, folder = mlflow_store(tmp_path), tmp_path / "run"
    with monkeypatch.context() as patch:
        run = start(MlflowTracker(uri=uri, system_metrics=False), splits, folder)
        patch.setattr(MlflowClient, "log_batch", broken)
        run.epoch("baseline", EPOCH)
        rows = [row(folder, "prune")]
        run.measured(rows)
        (folder / "results.json").write_text("{}")
        run.rows(rows, folder)
        run.finish("FINISHED")
    assert run.failure is not None
    assert statuses(uri) == ["FAILED"]  # what lacks something is not FINISHED
    assert [journal.folder for journal in journals_of(tmp_path / "artifacts").journals] == [folder]
    for _ in range(2):
        for journal in journals_in(folder, tmp_path / "artifacts"):
            journal.send(MlflowTracker(uri=uri, system_metrics=False))
    (logged,) = MlflowClient(uri).search_runs(["1"])
    assert (logged.info.status, logged.data.metrics["accuracy"]) == ("FINISHED", 0.9)
    assert logged.data.metrics["training/baseline/validation_accuracy"] == 0.6
    assert not any(file.path.startswith(".") for file in MlflowClient(uri).list_artifacts(logged.info.run_id))


def broken(*arguments: object, **named: object) -> None:
    raise OSError("the disk of the server is full")


def test_a_run_that_could_neither_be_opened_nor_closed_is_closed_later(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = mlflow_store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_inputs", broken)
        patch.setattr(MlflowClient, "set_terminated", broken)
        with pytest.raises(TrackingError, match="the disk of the server is full"):
            start(MlflowTracker(uri=uri, system_metrics=False), splits, tmp_path / "run")
    assert statuses(uri) == ["RUNNING"]
    assert sync([], tmp_path / "artifacts")[0] == 0
    assert statuses(uri) == ["FAILED"]


def test_a_refused_run_leaves_no_journal(splits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(TrackingError):
        start(MlflowTracker(uri="http://127.0.0.1:9", system_metrics=False), splits, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    assert list((tmp_path / "artifacts" / UNSENT).iterdir()) == []


def test_the_trials_of_a_killed_search_are_sent(splits: DataSplits, tmp_path: Path) -> None:
    file, survey = tmp_path / "tracking.jsonl", tmp_path / "search"
    used = JsonLines(uri=str(file))
    start(used, splits, survey / "baseline", survey).finish("FINISHED")
    search = GuardedSearch.of(used, survey, survey / "artifacts")
    search.search = GuardedSearch(used.search(tmp_path))  # fails: no search is there
    search.trials(TRIALS)
    assert sync([survey], survey / "artifacts")[0] == 0
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["number"] for event in events if event["event"] == "trial"] == [0, 1]
    assert [event["status"] for event in events if event["event"] == "survey_finished"] == ["KILLED"]
