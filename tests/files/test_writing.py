"""Files are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from src.files.writing import copy_file, replacing, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_failure_keeps_the_old_content_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(error: type[BaseException]) -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise error

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_a_process_that_is_killed_before_the_replacement_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = f"""
import os, signal
from pathlib import Path
from src.files.writing import replacing
with replacing(Path({str(path)!r})) as part:
    part.write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"
    (left,) = [name for name in names(tmp_path) if name != "file"]
    assert left.startswith("file.")
    assert left.endswith(".part")  # by which a store finds it and removes it


def test_two_writers_of_one_file_have_a_part_each_and_the_last_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert names(tmp_path) == ["file"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is flushed and renamed, in order: ``("fsync", path)`` and ``("replace", path)``."""
    noted: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        noted.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def noting_replace(source: Path, to: Path) -> None:
        noted.append(("replace", str(to)))
        replace(source, to)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    return noted


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="paths of descriptors are read from /proc")
@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), lambda path: write_bytes(path, b"x")])
def test_the_part_is_flushed_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, calls: list[tuple[str, str]], write: Callable[[Path], None]
) -> None:
    write(tmp_path / "file")
    assert [what for what, _ in calls] == ["fsync", "replace", "fsync"]
    assert calls[0][1].startswith(f"{tmp_path}/file.")
    assert calls[0][1].endswith(".part")
    assert calls[1:] == [("replace", str(tmp_path / "file")), ("fsync", str(tmp_path))]


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_only_a_folder_that_cannot_be_flushed_at_all_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, fails: bool
) -> None:
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    if fails:
        with pytest.raises(OSError, match=os.strerror(code)):
            write_text(tmp_path / "file", "new")
    else:
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def as_a_library(path: Path) -> None:
    """Writes as safetensors does: for the owner's eyes only."""
    with replacing(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize(
    "write", [lambda path: write_text(path, "new"), as_a_library, lambda path: copy_file(path.with_name("other"), path)]
)
def test_permissions_follow_the_umask(tmp_path: Path, write: Callable[[Path], None], mask: int, mode: int) -> None:
    (tmp_path / "other").touch(0o400)
    before = os.umask(mask)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_copy_has_the_content_and_shares_nothing_that_a_writer_could_change(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"content")
    os.link(source, copy)  # what earlier versions left
    copy_file(source, copy)
    assert copy.read_bytes() == b"content"
    copy.open("r+b").write(b"CON")
    assert source.read_bytes() == b"content"


@pytest.mark.parametrize("through", ["bytes", "a copy", "a library", "another error"])
def test_a_full_disk_is_named_and_the_old_content_kept(full_disk: Path, tmp_path: Path, through: str) -> None:
    path, source = full_disk / "file", tmp_path / "source"
    path.write_bytes(b"old")
    source.write_bytes(bytes(2_000_000))

    def write() -> None:
        if through == "bytes":
            write_bytes(path, bytes(2_000_000))
        if through == "a copy":
            copy_file(source, path)
        with replacing(path) as part:
            try:
                part.write_bytes(bytes(2_000_000))
            except OSError as error:
                raise RuntimeError(str(error) if through == "a library" else "unexpected position") from None

    with pytest.raises(OSError, match="the disk is full") as caught:
        write()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(full_disk))
    assert path.read_bytes() == b"old"
    assert names(full_disk) == ["file"]


def test_text_is_utf_8_with_its_line_ends_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "Größe\r\n信号\n")
    assert (tmp_path / "file").read_bytes() == "Größe\r\n信号\n".encode()
