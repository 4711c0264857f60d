"""The store believes no file: a stage that is not as it was finished is made anew, and what leaves it is a copy."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from src.contracts import InputError
from src.files import checked
from src.files.records import write_record
from src.stages.identity import identity
from src.stages.store import CHECKED, RECORD, RECORD_DIGEST, RUNS, WEIGHTS, StageStore, _digest_of
from tests.conftest import mounted

SPEC = {"kind": "step", "seed": 0}
ID = identity(SPEC)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> StageStore:
    """A store with one finished stage."""
    store = StageStore(tmp_path / "artifacts", say=said.append)
    make(store, tmp_path)
    return store


def make(store: StageStore, run: Path) -> None:
    with store.hold(ID, run) as folder:
        (folder / WEIGHTS).write_bytes(b"weights")
        store.finish(ID, {"spec": SPEC, "accuracy": 0.9, "numbers": {1: 0.1, 10: 0.2, 9: 1e-300}})


def edit(path: Path, old: bytes, new: bytes) -> None:
    """Edit a file in place and give it its old time."""
    before = path.stat()
    path.chmod(0o644)
    content = path.read_bytes()
    assert old in content
    with path.open("r+b") as file:
        file.write(content.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def a_folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").touch()


DAMAGES: list[tuple[str, Callable[[Path], None]]] = [
    (WEIGHTS, lambda path: edit(path, b"weights", b"WEIGHTS")),
    (WEIGHTS, lambda path: path.write_bytes(b"we")),
    (WEIGHTS, Path.unlink),
    (WEIGHTS, a_folder_in_its_place),
    (RECORD, lambda path: edit(path, b"0.9", b"1.0")),
    (RECORD, lambda path: path.write_bytes(path.read_bytes()[:-20])),
    (RECORD, a_folder_in_its_place),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_stage_is_not_found_and_is_made_anew(
    store: StageStore, said: list[str], tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    assert store.find(ID) is not None
    damage(store.folder(ID) / name)
    assert store.find(ID) is None
    assert said == []
    with store.hold(ID, tmp_path) as folder:
        assert [path.name for path in folder.iterdir()] == [RUNS]
    assert said == [f"{name} of stage {ID} is damaged; the stage is made anew."]
    make(store, tmp_path)
    assert store.find(ID) is not None
    assert len(said) == 1


def test_a_stage_that_did_not_change_is_found_without_reading_its_files(
    store: StageStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.find(ID)
    monkeypatch.setattr(checked, "sha256_of", None)
    with store.hold(ID, tmp_path):
        assert store.find(ID) is not None


def test_a_store_that_was_copied_is_found_again(store: StageStore, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "copy")
    copy = StageStore(tmp_path / "copy")
    before = (copy.folder(ID) / CHECKED).read_text()
    assert copy.find(ID) == store.find(ID)
    assert (copy.folder(ID) / CHECKED).read_text() != before  # the new inodes


def test_the_files_of_a_finished_stage_are_read_only(store: StageStore) -> None:
    for name in (RECORD, WEIGHTS):
        assert not (store.folder(ID) / name).stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def test_a_copy_from_the_store_can_be_written_and_the_store_does_not_change(store: StageStore, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    store.copy(ID, WEIGHTS, copy)
    assert copy.stat().st_mode & stat.S_IWUSR
    copy.open("r+b").write(b"WEIGHTS")
    assert store.find(ID) is not None
    store.copy(ID, WEIGHTS, copy)
    assert copy.read_bytes() == b"weights"


def test_a_copy_that_is_not_as_recorded_is_no_copy(store: StageStore, said: list[str], tmp_path: Path) -> None:
    """As of a disk that gives back other bytes than were written, while size and times are the same."""
    edit(store.folder(ID) / WEIGHTS, b"weights", b"WEIGHTS")
    notes = store.folder(ID) / CHECKED
    noted = json.loads(notes.read_text())
    checked.checksums({WEIGHTS: store.folder(ID) / WEIGHTS}, notes)
    seen = json.loads(notes.read_text())
    notes.write_text(json.dumps({WEIGHTS: [noted[WEIGHTS][0], *seen[WEIGHTS][1:]]}))
    assert store.find(ID) is not None
    with pytest.raises(InputError, match=f"{WEIGHTS} is damaged; the same command, given again, makes it anew"):
        store.copy(ID, WEIGHTS, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert store.find(ID) is None


@pytest.mark.parametrize(("name", "old", "new"), [(WEIGHTS, b"weights", b"WEIGHTS"), (RECORD, b"0.9", b"1.0")])
def test_a_damaged_copy_of_a_stage_is_not_adopted(
    store: StageStore, said: list[str], tmp_path: Path, name: str, old: bytes, new: bytes
) -> None:
    shutil.copytree(store.folder(ID), tmp_path / "pulled")
    edit(tmp_path / "pulled" / name, old, new)
    other = StageStore(tmp_path / "other", say=said.append)
    other.adopt(tmp_path / "pulled" / RECORD, tmp_path / "pulled" / WEIGHTS, tmp_path)
    assert other.stages() == []
    assert said == [f"{tmp_path / 'pulled' / name} is damaged and is not used."]


@pytest.mark.parametrize(
    "content",
    [{"files": {WEIGHTS: 5}, "spec": {}}, {"files": 5, "spec": {}}, {"files": {}}],
)
def test_a_record_of_other_kinds_is_not_adopted(
    store: StageStore, said: list[str], tmp_path: Path, content: dict[str, Any]
) -> None:
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    write_record(pulled / RECORD, {**content, RECORD_DIGEST: _digest_of(content)})
    other = StageStore(tmp_path / "other", say=said.append)
    other.adopt(pulled / RECORD, pulled / WEIGHTS, tmp_path)
    assert said == [f"{pulled / RECORD} is damaged and is not used."]


def test_a_damaged_stage_takes_a_sound_copy_from_elsewhere(store: StageStore, tmp_path: Path) -> None:
    shutil.copytree(store.folder(ID), tmp_path / "pulled")
    edit(store.folder(ID) / WEIGHTS, b"weights", b"WEIGHTS")
    store.adopt(tmp_path / "pulled" / RECORD, tmp_path / "pulled" / WEIGHTS, tmp_path)
    assert (store.folder(ID) / WEIGHTS).read_bytes() == b"weights"


# Where nothing can be written ---------------------------------------------------------------------


@pytest.fixture
def read_only(store: StageStore) -> Iterator[StageStore]:
    """The store with its folder mounted read-only, which binds root, too."""
    for folder in mounted(store.root, "--bind", "-o", "ro", str(store.root)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield store


def test_a_stage_in_a_read_only_store_is_found_and_used(read_only: StageStore, tmp_path: Path) -> None:
    runs = (read_only.folder(ID) / RUNS).read_text()
    (tmp_path / "run").mkdir()
    with read_only.hold(ID, tmp_path / "run") as folder:
        assert read_only.find(ID) is not None
        assert (folder / WEIGHTS).read_bytes() == b"weights"
    assert (read_only.folder(ID) / RUNS).read_text() == runs


def test_a_stage_that_must_be_made_in_a_read_only_store_is_an_error_that_names_the_folder(
    read_only: StageStore, tmp_path: Path
) -> None:
    refreshing = StageStore(read_only.root, refresh_before=1e12)
    for store, name in ((read_only, "missing"), (refreshing, ID)):
        with pytest.raises(OSError, match=f"stage {name} must be made, and nothing can be written here") as caught:
            store.hold(name, tmp_path).__enter__()
        assert caught.value.filename == str(read_only.root)


@contextmanager
def as_another_user() -> Iterator[None]:
    """What another user may do; without rights to become one the test is skipped."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_a_colleague_uses_the_stages_of_a_store_that_is_not_his() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store = StageStore(Path(folder) / "artifacts")
        make(store, Path(folder))
        with as_another_user():
            with store.hold(ID, Path(folder)) as held:
                assert store.find(ID) is not None
                assert (held / WEIGHTS).read_bytes() == b"weights"
            with pytest.raises(PermissionError, match="stage missing must be made, and nothing can be written here"):
                store.hold("missing", Path(folder)).__enter__()


def test_a_colleague_makes_stages_in_a_store_that_both_may_write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store = StageStore(Path(folder) / "artifacts")
        make(store, Path(folder))
        for path in (store.root, store.root / ".locks"):
            path.chmod(0o777)
        with as_another_user():
            with store.hold(ID, Path(folder) / "his"):
                assert store.find(ID) is not None
            with store.hold("new", Path(folder)) as held:
                (held / WEIGHTS).write_bytes(b"his")
                store.finish("new", {"spec": SPEC})
        assert store.find("new") is not None
