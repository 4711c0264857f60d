"""What is listed of the store, and what is removed: nothing that an existing run or search needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from src.command.stored_stages import size_of
from src.stages.store import RECORD, RUNS, WEIGHTS, StageStore
from tests.commands import Commands, Said

NOTHING = {"spec": {"kind": "timing", "exports": []}}


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    """Stages of about 100 kB: a run that exists uses ``kept``; one that is gone used the others, ``old`` first."""
    store = StageStore(tmp_path / "artifacts")
    for at, name in enumerate(("kept", "old", "middle", "new")):
        run = tmp_path / ("run" if name == "kept" else "gone")
        run.mkdir(exist_ok=True)
        with store.hold(name, run) as folder:
            (folder / WEIGHTS).write_bytes(bytes(100_000))
            store.finish(name, NOTHING)
        for path in folder.iterdir():
            os.utime(path, (1000 * at, 1000 * at))
    shutil.rmtree(tmp_path / "gone")
    return store


def artifacts(commands: Commands, *arguments: str) -> Said:
    return commands.call("artifacts", "--artifacts", str(commands.artifacts), *arguments)


def left(store: StageStore) -> set[str]:
    return {path.name for path in store.root.iterdir() if not path.name.startswith(".")}


def test_the_least_lately_used_stages_that_nothing_needs_are_removed_first(
    commands: Commands, store: StageStore
) -> None:
    said = artifacts(commands, "--keep", "350kB")
    assert said.code == 0
    assert left(store) == {"kept", "middle", "new"}
    assert "Removed 1. 100 kB are freed, 301 kB are left." in said.out
    artifacts(commands, "--keep", "0.25 MB")
    assert left(store) == {"kept", "new"}
    said = artifacts(commands, "--keep", "1GB")
    assert left(store) == {"kept", "new"}
    assert "Removed 0." in said.out


def test_a_use_makes_a_stage_young(commands: Commands, store: StageStore, tmp_path: Path) -> None:
    with store.hold("old", tmp_path / "gone"):
        pass
    artifacts(commands, "--keep", "350kB")
    assert left(store) == {"kept", "old", "new"}


def test_what_runs_need_stays_and_that_it_is_too_much_is_said(commands: Commands, store: StageStore) -> None:
    said = artifacts(commands, "--keep", "50kB")
    assert left(store) == {"kept"}
    assert "More than 50.00 kB are left: existing runs and searches use them." in said.out


def test_a_stage_that_is_in_use_stays_and_the_others_go(commands: Commands, store: StageStore, tmp_path: Path) -> None:
    with store.hold("old", tmp_path / "gone"):
        said = artifacts(commands, "--remove")
    assert left(store) == {"kept", "old"}
    assert "old is in use by a command at work and stays." in said.out
    assert "Removed 2." in said.out


def test_the_trials_of_a_removed_search_need_no_stage(commands: Commands, store: StageStore) -> None:
    """Trials of earlier versions named the store itself, which always exists."""
    (store.folder("new") / RUNS).write_text(".\n")
    artifacts(commands, "--remove")
    assert left(store) == {"kept"}


def test_bytes_that_two_stages_share_are_counted_once(commands: Commands, store: StageStore) -> None:
    shutil.rmtree(store.folder("new"))
    shutil.copytree(store.folder("middle"), store.folder("new"), copy_function=os.link)
    assert "4 stages, 30" in artifacts(commands).out


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ('{"spec": {"kind": "x"}}', 'spec.kind is "x", and must be timing, baseline or step or export'),
        ('{"spec": {"kind": []}}', "spec.kind is a list of 0, and must be timing"),
        ('{"spec": 5}', "spec is 5, and must be an object"),
        ("{}", "it has no spec"),
        ('{"spec": {"kind": "timing"}}', "spec has no exports"),
        ('{"spec": {"kind": "step", "method": {"_target_": 7}}}', "spec.method._target_ is 7, and must be a text"),
    ],
)
def test_a_damaged_record_gets_one_line_and_the_stage_can_be_removed(
    commands: Commands, store: StageStore, record: str, says: str
) -> None:
    path = store.folder("old") / RECORD
    path.unlink()
    path.write_text(record)
    said = artifacts(commands)
    assert (said.code, said.err) == (0, "")
    (line,) = [line for line in said.out.splitlines() if "stage.json" in line]
    assert line.startswith(f"old/stage.json is damaged: {says}")
    assert "new     timing of 0 files" in said.out
    assert artifacts(commands, "--remove").code == 0
    assert left(store) == {"kept"}


@pytest.mark.parametrize("text", ["20", "much", "-3GB", "3 apples", "", "1e3MB"])
def test_another_word_than_a_size_gets_one_line(commands: Commands, store: StageStore, text: str) -> None:
    said = artifacts(commands, f"--keep={text}")
    assert said.code == 2
    assert said.err == f"--keep must be a size such as 20GB or 500MB, and is {text!r}\n"
    assert len(left(store)) == 4


def test_sizes_are_in_powers_of_1000() -> None:
    assert [size_of(text) for text in ("7B", "1.5 kB", "500MB", "20gb", "1TB")] == [7, 1500, 5e8, 2e10, 1e12]
