"""A checksum is that of the content, however the file was changed; a file that did not change is not read again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src.files import checked
from src.files.checked import checksums


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old content")
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, in order."""
    names: list[str] = []
    sha256_of = checked.sha256_of
    monkeypatch.setattr(checked, "sha256_of", lambda path: (names.append(path.name), sha256_of(path))[1])
    return names


def a_tick() -> None:
    """Wait until the file system's clock goes on."""
    time.sleep(0.02)


def test_files_that_did_not_change_are_read_once(tmp_path: Path, file: Path, read: list[str]) -> None:
    a_tick()
    for _ in range(3):
        assert checksums({"a": file}, tmp_path / "notes") == {"a": sha256(b"old content")}
    assert read == ["file"]


def in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"new")


def in_place_with_its_old_time(path: Path) -> None:
    before = path.stat()
    in_place(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replaced_with_its_old_time(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"new content")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize("change", [in_place, in_place_with_its_old_time, replaced_with_its_old_time])
@pytest.mark.parametrize("wait", [True, False])
def test_a_changed_file_is_read_also_if_its_size_and_time_are_the_same(
    tmp_path: Path, file: Path, change: Callable[[Path], None], wait: bool
) -> None:
    checksums({"a": file}, tmp_path / "notes")
    if wait:
        a_tick()
    change(file)
    assert checksums({"a": file}, tmp_path / "notes") == {"a": sha256(file.read_bytes())} != sha256(b"old content")


def test_a_file_with_another_inode_and_the_same_content_is_read_once(
    tmp_path: Path, file: Path, read: list[str]
) -> None:
    checksums({"a": file}, tmp_path / "notes")
    shutil.copy2(file, tmp_path / "copy")
    (tmp_path / "copy").rename(file)
    a_tick()
    read.clear()
    for _ in range(3):
        assert checksums({"a": file}, tmp_path / "notes") == {"a": sha256(b"old content")}
    assert read == ["file"]


@pytest.mark.parametrize("notes", ["", "[]", '{"a": 3}', '{"a": ["0"]}', "{"])
def test_damaged_notes_are_no_notes(tmp_path: Path, file: Path, notes: str) -> None:
    (tmp_path / "notes").write_text(notes)
    assert checksums({"a": file}, tmp_path / "notes") == {"a": sha256(b"old content")}
    assert json.loads((tmp_path / "notes").read_text())["a"][0] == sha256(b"old content")


def test_notes_that_cannot_be_written_stop_nothing(tmp_path: Path, file: Path) -> None:
    assert checksums({"a": file}, tmp_path / "nowhere" / "notes") == {"a": sha256(b"old content")}


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(OSError, match=str(path)):
            checksums({"a": path}, tmp_path / "notes")
