"""An MLflow store wherever it lies: moved, in a folder with an odd name, behind a server that does not answer."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from src.contracts import DataSplits, Registration, TrackingError, TrialRecord
from src.tracking.mlflow import MlflowTracker
from src.tracking.mlflow_store import connect
from tests.conftest import MakeStore
from tests.tracking.rows import described, row


def tracker(uri: str) -> MlflowTracker:
    return MlflowTracker(uri=uri, system_metrics=False)


def logged(uri: str, splits: DataSplits, folder: Path, variant: str, survey: Path | None = None) -> str:
    """The identifier of a run that is logged with its file."""
    run = tracker(uri).start(described(splits, folder, survey, variant))
    run.rows([row(folder, variant)], folder)
    run.finish("FINISHED")
    assert run.run_id is not None
    return run.run_id


# A store that was moved ---------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [False, True], ids=["moved", "copied"])
def test_a_moved_store_has_the_files_of_all_its_runs_and_writes_nothing_at_its_old_place(
    copied: bool, mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new it's"
    old.mkdir()
    first = logged(mlflow_store(old), splits, old / "run", "baseline")
    (shutil.copytree if copied else shutil.move)(old, new)
    before = sorted(old.rglob("*"))
    uri = f"sqlite:///{new / 'mlflow.db'}"
    run = tracker(uri).start(described(splits, new / "other", None, "prune"))
    assert run.notes == [f"The tracking store was moved: its files are now looked for in {new / 'mlartifacts'}"]
    run.finish("FINISHED")
    second = logged(uri, splits, new / "again", "cluster")
    assert sorted(old.rglob("*")) == before
    client = MlflowClient(uri)
    for run_id, name in ((first, "baseline"), (second, "cluster")):
        assert f"{name}.onnxruntime.onnx" in {file.path for file in client.list_artifacts(run_id)}
        assert Path(client.download_artifacts(run_id, f"{name}.onnxruntime.onnx")).stat().st_size > 0
    models = client.search_logged_models(["1"])
    for model in models:  # MLflow's client would answer from what it knew before the move
        location = Path(unquote(urlsplit(model.artifact_location).path))
        assert location.is_relative_to(new)
        assert (location / "MLmodel").is_file()
    assert len(models) == 2
    assert tracker(uri).start(described(splits, new / "third", None, "prune")).notes == []


def test_a_database_that_was_moved_alone_goes_on_naming_its_files(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path
) -> None:
    run_id = logged(mlflow_store(tmp_path), splits, tmp_path / "run", "baseline")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "mlflow.db", tmp_path / "elsewhere")
    uri = f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"
    assert tracker(uri).start(described(splits, tmp_path / "other", None, "prune")).notes == []
    assert MlflowClient(uri).list_artifacts(run_id)


# Odd names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["it's", 'it\'s "here"', "50 % `x` #1", "über größe"])
def test_a_folder_may_have_any_name(name: str, mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path) -> None:
    home = tmp_path / name
    survey = home / "survey"
    home.mkdir()
    uri = mlflow_store(home)
    first = logged(uri, splits, survey / name, "prune", survey)
    assert logged(uri, splits, survey / name, "prune", survey) == first  # found again
    search = tracker(uri).search(survey)
    search.trials([TrialRecord(0, {name: 1}, {"size_bytes": 1.0}, {"reason": name}, False, 1.7e9, 1.7e9 + 5)])
    own = row(survey / name, "prune")
    chosen = Registration(name.replace("`", ""), own, [own], "size_bytes", {}, "python", None, {})
    for _ in range(2):
        (line,) = search.register(chosen)
        assert "version 1." in line
    assert tracker(uri).promote(chosen.name, "1", "smallest") == (True, "smallest stands at version 1 already")
    search.finish("FINISHED", {})
    client = MlflowClient(uri)
    assert f"{own.artifact}" in {file.path for file in client.list_artifacts(first)}
    assert (
        Path(client.download_artifacts(first, own.artifact)).read_bytes() == (survey / name / own.artifact).read_bytes()
    )


def test_a_parent_file_that_is_empty_or_damaged_opens_a_new_parent(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path
) -> None:
    uri, survey = mlflow_store(tmp_path), tmp_path / "survey"
    survey.mkdir()
    for content in (b"", b"\n", b"one line", b"\xff\xfe\n\xff\n", f"\n{uri}\n\n".encode()):
        (survey / ".mlflow_parent").write_bytes(content)
        tracker(uri).start(described(splits, survey / "member", survey, "prune")).finish("FINISHED")
    parents = [run for run in MlflowClient(uri).search_runs(["1"]) if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 5


# Promotion ----------------------------------------------------------------------------------------


def test_a_version_whose_model_is_not_complete_gets_no_alias(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path
) -> None:
    uri, folder = mlflow_store(tmp_path), tmp_path / "run"
    logged(uri, splits, folder, "prune")
    client = MlflowClient(uri)
    client.create_registered_model("net")
    half = client.create_logged_model("1", name="half")
    client.create_model_version("net", source=half.artifact_location, tags={"within_budget": "true"})
    stands, why = tracker(uri).promote("net", "1", "smallest")
    assert (stands, why) == (
        False,
        "version 1 was not logged completely; python -m src.sync does it, or search again",
    )


def test_a_half_written_model_is_not_registered(mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path) -> None:
    uri, folder = mlflow_store(tmp_path), tmp_path / "search" / "prune"
    search = tmp_path / "search"
    tracker(uri).start(described(splits, folder, search, "prune")).finish("KILLED")
    own = row(folder, "prune")
    params = {key: str(getattr(own, key)) for key in ("variant", "sha256", "measured_at")}
    MlflowClient(uri).create_logged_model("1", name="half", params=params)
    with pytest.raises(TrackingError, match="has no logged model of prune.onnxruntime.onnx"):
        tracker(uri).search(search).register(Registration("net", own, [own], "size_bytes", {}, "python", None, {}))


# Servers ------------------------------------------------------------------------------------------


@contextmanager
def server(status: int, seconds: float = 0.0) -> Iterator[str]:
    """The address of a server that answers every request by ``status``, after ``seconds``."""

    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            time.sleep(seconds)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    serving.daemon_threads = True
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}"
    finally:
        serving.shutdown()
        serving.server_close()


@pytest.mark.parametrize(
    ("status", "seconds", "message"),
    [
        (500, 0.0, "answered 500: see its log, or choose tracking=off"),
        (503, 0.0, "answered 503: see its log, or choose tracking=off"),
        (200, 5.0, "did not answer within 1 s; see what delays it, or choose tracking=off"),
    ],
)
def test_a_server_that_fails_is_said_to_do_what_it_does(
    status: int, seconds: float, message: str, splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with server(status, seconds) as uri, pytest.raises(TrackingError) as caught:
        tracker(uri).start(described(splits, tmp_path, None, "baseline"))
    assert str(caught.value) == f"The server at tracking.uri={uri} {message}"


# The address --------------------------------------------------------------------------------------


def test_the_address_of_the_environment_counts_unless_another_is_given(
    mlflow_store: MakeStore, splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def default() -> str:
        return str(OmegaConf.load("conf/tracking/mlflow.yaml").uri)

    assert default() == "sqlite:///mlflow.db"
    uri = mlflow_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert default() == uri
    notes = tracker(uri).start(described(splits, tmp_path / "a", None, "a")).notes
    assert notes == [f"Tracked at {uri}, as MLFLOW_TRACKING_URI says."]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    notes = tracker(uri).start(described(splits, tmp_path / "b", None, "b")).notes
    assert notes == [f"Tracked at tracking.uri={uri}; MLFLOW_TRACKING_URI=http://elsewhere does not count."]


def test_a_new_store_may_lie_in_a_folder_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "o'b\"x"
    folder.mkdir()
    monkeypatch.chdir(folder)
    client, _ = connect("sqlite:///of_any_name.db")  # MLflow keeps stores by their address
    (default,) = client.search_experiments()
    assert default.artifact_location == f"{(folder / 'mlartifacts').as_uri()}/0"
