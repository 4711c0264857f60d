"""A journal in a folder of results from elsewhere: it is data, and chooses neither a store nor a path."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from src.command.syncing import close_earlier, send_earlier, sync
from src.contracts import InputError, Refused, TrackingError
from src.files.records import write_record
from src.tracking.guard import GuardedRun, GuardedSearch
from src.tracking.jsonl import JsonLines
from src.tracking.mlflow import MlflowTracker
from src.tracking.unsent import UNSENT, _is_measured, how_to_send, journals_of
from tests.conftest import MakeStore
from tests.tracking.killed import DATA
from tests.tracking.rows import RunDescription, row

KEY = "0123456789abcdef"


def begun(folder: Path, **changes: Any) -> dict[str, Any]:
    """The first line of a journal as d975084 wrote it: it names its store, its survey and its list."""
    described = asdict(RunDescription("e", "prune", "net", 0, DATA, {}, "python", folder, None, key=KEY))
    run = {**described, "folder": str(folder), "survey": None, **changes.pop("run", {})}
    store = {"name": "jsonl", "uri": str(folder.parent / "victim.jsonl"), "tags": {}}
    return {"event": "begun", "time": 1.7e9, "store": store, "host": "x", "list": "../list", "run": run, **changes}


def foreign(folder: Path, *events: dict[str, Any], name: str = KEY) -> Path:
    """Write a journal into ``folder``, with an end."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{UNSENT}-{name}.jsonl"
    lines = [*events, {"event": "finish", "time": 1.7e9, "status": "FAILED"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def files_outside(root: Path, folder: Path) -> set[str]:
    """Every file below ``root``, but those in ``folder`` and the user's own stages."""
    own = (folder, root / "artifacts")
    return {str(path) for path in root.rglob("*") if path.is_file() and not any(map(path.is_relative_to, own))}


def test_a_journal_that_is_not_on_the_list_is_sent_nowhere_and_named(tmp_path: Path) -> None:
    folder, artifacts = tmp_path / "theirs", tmp_path / "artifacts"
    path = foreign(folder, begun(folder, run={"survey": "../elsewhere"}))
    before = files_outside(tmp_path, folder)
    code, (line,) = sync([folder], artifacts)
    assert code == 3
    assert line.startswith(f"Not sent: {path} did not begin here")
    assert how_to_send(folder) in line
    assert close_earlier(folder, artifacts) == [line]
    assert sync([], artifacts) == (0, ["Nothing is left to send."])
    assert send_earlier(artifacts, str(tmp_path / "victim.jsonl"), tmp_path) == []
    assert files_outside(tmp_path, folder) == before
    assert path.exists()


def test_the_user_says_where_such_a_journal_goes(tmp_path: Path) -> None:
    folder, artifacts, mine = tmp_path / "theirs", tmp_path / "artifacts", tmp_path / "mine.jsonl"
    path = foreign(folder, begun(folder, run={"survey": "../elsewhere"}))
    assert sync([folder], artifacts, to="jsonl", uri=str(mine)) == (0, [f"Sent 1 earlier run to {mine}"])
    events = [json.loads(line) for line in mine.read_text().splitlines()]
    assert [(each["event"], each["run"]) for each in events] == [("run_started", KEY), ("run_finished", KEY)]
    assert events[0]["survey"] is None
    assert not path.exists()
    assert {Path(each).name for each in files_outside(tmp_path, folder)} == {"mine.jsonl", ".mine.jsonl.lock"}
    with pytest.raises(InputError, match="there is no tracking 'nothing'"):
        sync([folder], artifacts, to="nothing")
    with pytest.raises(InputError, match="needs --to"):
        sync([folder], artifacts, uri="http://127.0.0.1:9")


def test_a_search_in_a_folder_from_elsewhere_does_not_go_on_with_its_journal(tmp_path: Path) -> None:
    survey, artifacts = tmp_path / "search", tmp_path / "artifacts"
    used = JsonLines(uri=str(tmp_path / "mine.jsonl"))
    theirs = foreign(survey, {**begun(survey), "run": None}, name="parent").read_text()
    (survey / "baseline").mkdir()
    described = RunDescription("e", "prune", "net", 0, DATA, {}, "python", survey / "baseline", survey)
    GuardedRun.start(used, described, artifacts, "jsonl").finish("FINISHED")
    journal = GuardedSearch.of(used, survey, artifacts).journal
    assert journal is not None
    assert [event["event"] for event in journal.events] == ["begun"]
    others = [path for path in survey.glob(f"{UNSENT}-*") if path != journal.path]
    assert [path.read_text() for path in others] == [theirs]


def test_a_journal_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    survey, victim = tmp_path / "search", tmp_path / "victim"
    survey.mkdir()
    (survey / f"{UNSENT}-parent.jsonl").symlink_to(victim)
    (survey / "baseline").mkdir()
    described = RunDescription("e", "prune", "net", 0, DATA, {}, "python", survey / "baseline", survey)
    GuardedRun.start(JsonLines(uri=str(tmp_path / "mine.jsonl")), described, tmp_path / "artifacts", "jsonl")
    assert not victim.exists()


def test_links_out_of_a_folder_are_not_logged(mlflow_store: MakeStore, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder, uri = tmp_path / "theirs", mlflow_store(tmp_path)
    (tmp_path / "secret").write_text("a key")
    folder.mkdir()
    rows = [row(folder, "prune")]
    foreign(folder, begun(folder), {"event": "rows", "time": 1.7e9, "rows": [asdict(each) for each in rows]})
    (folder / "results.json").write_text("{}")
    for name in ("notes.txt", "prune.onnxruntime.txt"):
        (folder / name).symlink_to(tmp_path / "secret")
    assert sync([folder], tmp_path / "artifacts", to="mlflow", uri=uri)[0] == 0
    client = MlflowClient(uri)
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert "notes.txt" not in {file.path for file in client.list_artifacts(run.info.run_id)}
    (model,) = client.search_logged_models(["1"])
    logged = {file.path for file in client.list_logged_model_artifacts(model.model_id)}
    assert logged == {"MLmodel", "prune.onnxruntime.onnx"}


@pytest.mark.parametrize("names", [["prune"], ["prune", "small"]])
def test_a_file_that_was_changed_after_it_was_measured_is_not_logged(tmp_path: Path, names: list[str]) -> None:
    folder, mine = tmp_path / "run", tmp_path / "mine.jsonl"
    folder.mkdir()
    rows = [row(folder, name) for name in ("prune", "small")]
    for name in names:
        (folder / f"{name}.onnxruntime.onnx").write_bytes(b"another network")
    (folder / "results.json").write_text("{}")
    foreign(folder, begun(folder), {"event": "rows", "time": 1.7e9, "rows": [asdict(each) for each in rows]})
    code, said = sync([folder], tmp_path / "artifacts", to="jsonl", uri=str(mine))
    assert (code, said[0]) == (0, f"Sent 1 earlier run to {mine}")
    assert [line.split()[:6] for line in said[1:]] == [
        [str(folder / f"{name}.onnxruntime.onnx"), "was", "changed", "after", "it", "was"] for name in names
    ]
    events = [json.loads(line) for line in mine.read_text().splitlines()]
    logged = {each["row"]["variant"] for each in events if each["event"] == "row"}
    assert logged == {"prune", "small"} - set(names)


def test_both_parts_of_a_file_count(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(b"graph ")
    (tmp_path / "a.bin").write_bytes(b"weights")
    assert _is_measured(tmp_path / "a.xml", hashlib.sha256(b"graph weights").hexdigest())
    (tmp_path / "a.bin").write_bytes(b"others")
    assert not _is_measured(tmp_path / "a.xml", hashlib.sha256(b"graph weights").hexdigest())


def rows_of(**changes: Any) -> dict[str, Any]:
    columns = {"variant": "v", "target": "t", "sha256": "a", "identity": "i", "machine": "m", "data": "d", "model": "n"}
    columns |= {"artifact": "v.onnx", "measured_at": "2026-01-01T00:00:00+00:00", "accuracy": 0.5}
    formats = {"precision": {"computes": ["int8"], "stores": []}}
    formats["runtime"] = {"name": "onnxruntime", "provider": None, "stands_in_for": None}  # type: ignore[dict-item]
    return {"event": "rows", "time": 1.7e9, "rows": [{**columns, **formats, **changes}]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (rows_of(artifact="../secret"), 'rows[0].artifact is "../secret", and must be the name of a file in its own'),
        (rows_of(artifact="/etc/passwd"), "and must be the name of a file in its own folder"),
        (rows_of(artifact=".."), "and must be the name of a file in its own folder"),
        (rows_of(accuracy="high"), 'accuracy is "high", and must be null or a number'),
        (rows_of(accuracy=1.5), "accuracy is 1.5, and must be null or a number from 0 to 1"),
        (rows_of(latency_ms_p50=-1), "latency_ms_p50 is -1, and must be null or a number from 0"),
        (rows_of(size_bytes=-1), "size_bytes is -1, and must be null or a whole number from 0"),
        (rows_of(measured_at="yesterday"), "and must be a time such as"),
        ({"event": "rows", "time": 1.7e9, "rows": 5}, "rows is 5, and must be a list"),
        ({"event": "epoch", "time": 1.7e9, "stage": "s"}, "has no epoch"),
        ({"event": "trial", "time": 1.7e9, "record": {"number": -1}}, "record.number is -1"),
        ({"event": "delete", "time": 1.7e9}, 'event is "delete", and must be begun or epoch or rows'),
        ({"event": "finish", "time": 1.7e9, "status": "RUNNING"}, "and must be FINISHED, FAILED or KILLED"),
        ({"event": "finish", "time": "now", "status": "KILLED"}, 'time is "now"'),
    ],
)
def test_a_line_that_no_run_writes_is_refused_by_its_number(tmp_path: Path, line: dict[str, Any], message: str) -> None:
    folder = tmp_path / "theirs"
    path = foreign(folder, begun(folder), line)
    code, (said,) = sync([folder], tmp_path / "artifacts", to="jsonl", uri=str(tmp_path / "mine.jsonl"))
    assert code == 3
    assert said.startswith(f"Not sent: {path} is damaged, or of another version: in its line 2, ")
    assert message in said
    assert not (tmp_path / "mine.jsonl").exists()


@pytest.mark.parametrize("name", ["../../victim", "/tmp/victim", "a/../../victim", ".."])
def test_an_experiment_names_no_folder_outside_the_stores_own(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "theirs"
    foreign(folder, begun(folder, run={"experiment": name}))
    code, (said,) = sync([folder], tmp_path / "artifacts", to="jsonl", uri=str(tmp_path / "mine.jsonl"))
    assert code == 3
    assert f'in its line 1, run.experiment is "{name}", and must be a name without ..' in said


def cut(path: Path) -> None:
    path.write_text(path.read_text().replace('"key": ', '"kex": '))


@pytest.mark.parametrize(
    "spoil",
    [
        cut,
        lambda path: path.write_text('{"event": "begun", "time": 1, "run": 7}\n'),
        lambda path: path.write_text('{"event": "finish", "time": 1, "status": "FAILED"}\n'),
        lambda path: path.write_text('{"event": "begun", "run": null, "time": 1, "time": 2}\n\n'),
        lambda path: path.write_text('{"event": "begun", "run": ' + "[" * 100_000 + "\n\n"),
        lambda path: path.write_text("no journal\n"),
        lambda path: path.write_bytes(b"\xff\xfe\n"),
    ],
)
def test_a_damaged_journal_on_the_list_is_one_line_and_the_command_goes_on(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    artifacts, uri = tmp_path / "artifacts", str(tmp_path / "mine.jsonl")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        described = RunDescription("e", "prune", "net", 0, DATA, {}, "python", tmp_path / name, None)
        GuardedRun.start(JsonLines(uri=uri), described, artifacts, "jsonl")
    (path,) = (tmp_path / "one").glob(f"{UNSENT}-*.jsonl")
    spoil(path)
    assert close_earlier(tmp_path / "one", artifacts) == []
    sent, left = sorted(send_earlier(artifacts, uri, tmp_path / "own"), reverse=True)
    assert sent == f"Sent 1 earlier run to {uri}"
    assert left.startswith(f"Not sent: {path} is ")
    assert "\n" not in left
    assert sync([], artifacts) == (3, [left])


def test_a_list_of_an_earlier_version_names_no_store(tmp_path: Path) -> None:
    folder, artifacts = tmp_path / "old", tmp_path / "artifacts"
    path = foreign(folder, begun(folder))
    (artifacts / UNSENT).mkdir(parents=True)
    write_record(artifacts / UNSENT / "x.json", {"folder": "../../old", "journal": path.name})
    code, (line,) = sync([], artifacts)
    assert (code, line) == (
        3,
        f"{path} is of an earlier version and names no store: {how_to_send(folder)} sends it",
    )
    assert not (tmp_path / "victim.jsonl").exists()


def test_a_run_of_another_machine_is_named_until_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts, uri = tmp_path / "artifacts", str(tmp_path / "mine.jsonl")

    def start(name: str) -> Path:
        (tmp_path / name).mkdir()
        described = RunDescription("e", "prune", "net", 0, DATA, {}, "python", tmp_path / name, None)
        GuardedRun.start(JsonLines(uri=uri), described, artifacts, "jsonl")
        return next((tmp_path / name).glob(f"{UNSENT}-*.jsonl"))

    start("renamed")
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "another name")
        assert sync([], artifacts)[0] == 0  # the same kernel: its locks say that nobody is at work
    boot = tmp_path / "boot"
    monkeypatch.setattr("src.tracking.unsent.BOOT", boot)
    for end in ("by the flag", "by its age"):
        monkeypatch.setattr("platform.node", lambda: "before")
        boot.write_text("before")
        journal = start(end)
        monkeypatch.setattr("platform.node", lambda: "after")
        boot.write_text("after")
        code, (line,) = sync([], artifacts)
        assert code == 3
        assert line.startswith(f"Not sent: {tmp_path / end} was begun on before, and may be at work there")
        assert "python -m src.sync --ended" in line
        if end == "by its age":
            os.utime(journal, (time.time() - 8 * 24 * 3600,) * 2)
        assert sync([], artifacts, ended=end == "by the flag") == (0, [f"Sent 1 earlier run to {uri}"])


def test_a_list_that_cannot_be_written_is_said_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, uri = tmp_path / "run", str(tmp_path / "mine.jsonl")
    folder.mkdir()
    (tmp_path / "artifacts").write_text("no folder")
    described = RunDescription("e", "prune", "net", 0, DATA, {}, "python", folder, None)
    run = GuardedRun.start(JsonLines(uri=uri), described, tmp_path / "artifacts", "jsonl")
    (record,) = caplog.records
    assert re.search(
        r"\.unsent cannot be written \(Not a directory\): should .* fail, send this run by", record.message
    )
    assert how_to_send(folder, "jsonl") in record.message
    del run  # killed
    assert sync([folder], tmp_path / "artifacts")[0] == 3
    assert sync([folder], tmp_path / "artifacts", to="jsonl", uri=uri) == (0, [f"Sent 1 earlier run to {uri}"])


@pytest.mark.parametrize("kind", ["mlflow", "jsonl"])
def test_refused_rows_that_the_store_did_not_take_are_sent_once(
    mlflow_store: MakeStore, tmp_path: Path, kind: str
) -> None:
    from mlflow import MlflowClient

    folder, artifacts = tmp_path / "run", tmp_path / "artifacts"
    folder.mkdir()
    uri = mlflow_store(tmp_path) if kind == "mlflow" else str(tmp_path / "mine.jsonl")
    used = MlflowTracker(uri=uri, system_metrics=False) if kind == "mlflow" else JsonLines(uri=uri)
    described = RunDescription("e", "prune", "net", 0, DATA, {}, "python", folder, None)
    run = GuardedRun.start(used, described, artifacts, kind)
    refused = [Refused("prune", "openvino", "it broke", failed=True)]
    rows = [row(folder, "prune")]
    run.measured(rows, refused)
    (folder / "results.json").write_text("{}")
    run.failed(TrackingError("the store is down"))
    run.rows(rows, folder)
    run.refused(refused)
    run.finish("FINISHED")
    (journal,) = journals_of(artifacts).journals
    text = journal.path.read_text()
    for _ in range(2):
        journal.path.write_text(text)
        journal.send(used)
    if kind == "mlflow":
        (logged,) = MlflowClient(uri).search_runs(["1"])
        assert logged.data.tags["refused.prune.openvino"] == "it broke"
    else:
        events = [json.loads(line) for line in Path(uri).read_text().splitlines()]
        assert [each["reason"] for each in events if each["event"] == "refused"] == ["it broke"]
