"""The sync command, and what other commands send of earlier ones, as a user sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.tracking.guard import GuardedRun
from src.tracking.jsonl import JsonLines
from tests.commands import Commands
from tests.conftest import MakeStore
from tests.tracking.killed import DATA
from tests.tracking.rows import RunDescription

FAST = ("training.epochs=1", "data.train_images=64", "data.test_images=20", "timing.seconds=0.02", "timing.rounds=2")
SMALL = ("data=shapes", "data.side=16", "method=baseline", *FAST)


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


def test_a_store_that_fails_midway_gets_the_run_later(
    commands: Commands, mlflow_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    uri = mlflow_store(commands.folder)

    def broken(*arguments: object, **named: object) -> None:
        raise OSError("the disk of the server is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_logged_model", broken)
        said, out = commands.run(*SMALL, "tracking.system_metrics=false", tracking=f"tracking.uri={uri}")
    assert said.code == 3
    assert "the disk of the server is full. The results are complete in" in said.out
    assert "; python -m src.sync sends them to the store later." in said.out
    assert json.loads((out / "results.json").read_text())["tracking_error"] is not None
    for expected in (f"Sent 1 earlier run to {uri}\n", "Nothing is left to send.\n"):
        said = commands.call("sync", "--artifacts", str(commands.artifacts))
        assert (said.code, said.out) == (0, expected)
    assert json.loads((out / "results.json").read_text())["tracking_error"] is None
    (run,) = MlflowClient(uri).search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["accuracy"] == json.loads((out / "results.json").read_text())["rows"][0]["accuracy"]
    assert [str(model.status) for model in MlflowClient(uri).search_logged_models(["1"])] == ["READY"]


def test_the_next_command_that_reaches_the_store_sends_what_a_killed_one_left(commands: Commands) -> None:
    uri = str(commands.folder / "tracking.jsonl")
    dead = commands.folder / "outputs" / "dead"
    dead.mkdir(parents=True)
    described = RunDescription("digits", "prune", "net", 0, DATA, {}, "python -m src.run", dead, None)
    GuardedRun.start(JsonLines(uri=uri), described, commands.artifacts, "jsonl")
    said, _ = commands.run(*SMALL, "tracking=jsonl", tracking=f"tracking.uri={uri}")
    assert said.code == 0, said.err
    assert f"Sent 1 earlier run to {uri}\n" in said.out
    events = [json.loads(line) for line in Path(uri).read_text().splitlines()]
    assert sorted(each["status"] for each in events if each["event"] == "run_finished") == ["FINISHED", "KILLED"]


@pytest.mark.slow
def test_a_command_that_is_killed_does_not_stay_running(commands: Commands, mlflow_store: MakeStore) -> None:
    from mlflow import MlflowClient

    uri = mlflow_store(commands.folder)
    line = [sys.executable, "-m", "src.run", *SMALL, "training.epochs=500", f"tracking.uri={uri}"]
    line += ["tracking.system_metrics=false", f"artifacts={commands.artifacts}", "training.threads=1"]
    running = subprocess.Popen([*line, f"hydra.run.dir={commands.folder}/out"], stdout=subprocess.DEVNULL)
    client = MlflowClient(uri)
    started = time.monotonic()
    while not (found := [e for e in client.search_experiments() if e.name == "run"]) or not client.search_runs(
        [found[0].experiment_id], "metrics.`training/baseline/train_loss` > 0"
    ):
        assert time.monotonic() - started < 120
        time.sleep(0.5)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    said = commands.call("sync", "--artifacts", str(commands.artifacts))
    assert (said.code, said.out) == (0, f"Sent 1 earlier run to {uri}\n")
    (run,) = client.search_runs([found[0].experiment_id])
    assert run.info.status == "KILLED"
    assert run.info.end_time


def test_a_folder_that_is_not_there_is_said(commands: Commands) -> None:
    said = commands.call("sync", str(commands.folder / "nowhere"))
    assert (said.code, said.err) == (2, f"There is no folder {commands.folder / 'nowhere'}\n")
