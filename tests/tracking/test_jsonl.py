"""One file of events, whatever happens to the processes that write it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.contracts import DataSplits, Epoch, TrackingError
from src.tracking.event_file import EventFile
from src.tracking.jsonl import JsonLines
from tests.tracking.rows import described, row


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_a_line_for_each_event(splits: DataSplits, tmp_path: Path) -> None:
    path, folder = tmp_path / "new" / "tracking.jsonl", tmp_path / "run"
    run = JsonLines(uri=str(path), tags={"team": "vision"}).start(described(splits, folder, None, "prune"))
    run.epoch("prune", Epoch(0, 1.5, 0.5, 0.6, 0.1, 2.0, 1.7e9))
    run.rows([row(folder, "prune")], folder)
    run.finish("FINISHED")
    started, epoch, measured, finished = lines(path)
    assert [event["event"] for event in (started, epoch, measured, finished)] == [
        "run_started",
        "epoch",
        "row",
        "run_finished",
    ]
    assert {event["run"] for event in (started, epoch, measured, finished)} == {run.run_id}
    assert started["config"] == {"seed": 0, "method": {"sparsity": 0.8, "ignored": []}}
    assert started["command"] == "python -m src.run method=prune_magnitude"
    assert (started["folder"], started["survey"], started["parent"]) == (str(folder), None, None)
    assert started["data"] == {"name": "shapes", "checksum": splits.checksum}
    assert (started["tags"], set(started) >= {"git_commit", "versions", "time"}) == ({"team": "vision"}, True)
    assert "torch" in started["versions"]
    assert (epoch["stage"], epoch["epoch"], epoch["validation_accuracy"]) == ("prune", 0, 0.6)
    assert measured["file"] == str(folder / "prune.onnxruntime.onnx")
    assert measured["row"]["size_bytes"] == 1000
    assert measured["row"]["precision"] == {"computes": ["int8"], "stores": []}
    assert finished["status"] == "FINISHED"


def test_a_member_names_its_survey(splits: DataSplits, tmp_path: Path) -> None:
    tracker, survey = JsonLines(uri=str(tmp_path / "tracking.jsonl")), tmp_path / "survey"
    tracker.start(described(splits, survey / "a", survey, "a"))
    tracker.start(described(splits, survey / "b", survey, "b"))
    begun, first, second = lines(tmp_path / "tracking.jsonl")
    assert (begun["event"], begun["folder"]) == ("survey_started", str(survey))
    assert first["survey"] == second["survey"] == str(survey)
    assert first["parent"] == second["parent"] == begun["survey"]


def test_an_incomplete_last_line_is_ignored_and_the_next_event_has_a_line_of_its_own(tmp_path: Path) -> None:
    """A process that was killed while it wrote leaves a part of a line."""
    path = tmp_path / "tracking.jsonl"
    EventFile(path).append("trial", number=0)
    EventFile(path).append("trial", number=1)
    complete = path.read_bytes()
    first = complete.index(b"\n") + 1
    for end in range(first + 1, len(complete)):
        path.write_bytes(complete[:end])
        known = [event["number"] for event in EventFile(path).events("trial")]
        assert known == ([0, 1] if end == len(complete) - 1 else [0])  # only the end of the line is missing
        EventFile(path).append("trial", number=2)
        assert [event["number"] for event in EventFile(path).events("trial")] == [*known, 2]


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "tracking.jsonl"
    EventFile(path).append("epoch", losses=[math.inf, math.nan, 0.5], folder=Path("x"))
    (event,) = lines(path)
    assert (event["losses"], event["folder"]) == ([None, None, 0.5], "x")


@pytest.mark.parametrize("content", ["this is no file of events", '{"event": "epoch"}\n{"events": []}\n'])
def test_a_file_of_something_else_is_refused_in_one_line(content: str, splits: DataSplits, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(content)
    tracker = JsonLines(uri=str(tmp_path / "notes.txt"))
    with pytest.raises(TrackingError, match=r"notes.txt is no file of tracking events: see line \d$"):
        tracker.start(described(splits, tmp_path / "a", tmp_path, "a"))


def test_a_folder_in_place_of_the_file_is_refused_in_one_line(splits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="cannot be used: Is a directory"):
        JsonLines(uri=str(tmp_path)).start(described(splits, tmp_path / "a", None, "a"))


def test_a_store_stays_in_its_file_if_the_working_folder_changes(
    splits: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = JsonLines(uri="tracking.jsonl")
    assert (tracker.uri, tracker.compare) == ("tracking.jsonl", "tracking.jsonl")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    tracker.start(described(splits, tmp_path / "run", None, "a"))
    assert len(lines(tmp_path / "tracking.jsonl")) == 1


def test_several_processes_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "tracking.jsonl"
    code = (
        "import sys; from pathlib import Path; from src.tracking.event_file import EventFile\n"
        "file = EventFile(Path(sys.argv[1]))\n"
        "for number in range(100): file.append('epoch', writer=sys.argv[2], number=number, text='x' * 5000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    events = EventFile(path).events("epoch")
    for name in "ab":
        assert [event["number"] for event in events if event["writer"] == name] == list(range(100))


def test_the_config_builds_the_tracker() -> None:
    made = instantiate(OmegaConf.load("conf/tracking/jsonl.yaml"), _convert_="all")
    assert isinstance(made, JsonLines)
    assert (made.uri, made.tags) == ("tracking.jsonl", {})
