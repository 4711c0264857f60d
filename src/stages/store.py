"""The folder of stages: finished stages are checked and reused, interrupted ones resume."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.contracts.errors import InputError
from src.files.checked import checksums, sha256_of
from src.files.records import LaterSchemaError, read_record, write_record
from src.files.writing import copy_file, write_text
from src.stages.identity import identity

log = logging.getLogger(__name__)
RECORD = "stage.json"
WEIGHTS = "weights.safetensors"
RUNS = "runs.txt"  # written at each use, so that its time is that of the last one
CHECKED = "checked.json"  # signatures of the files when they were last found to be as recorded
LOCKS = ".locks"  # a folder beside the stages; a name that begins with a dot is no stage
FILES, RECORD_DIGEST = "files", "record_digest"  # keys of the record: each file's checksum and size; the record's own
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
UNCHECKED = "Stages of an earlier version have no checksums and are made anew."


@dataclass(frozen=True)
class StoredStage:
    """A stage in the store, as ``python -m src.artifacts`` lists it.

    Attributes:
        identity: Identity of the stage, which is the name of its folder.
        record: Content of ``stage.json``; None if the stage is unfinished or its record cannot be read.
        size_bytes: Size of all files in the folder, but of those that an earlier stage of the list shares.
        used: Time of the last use, in seconds since 1970.
        runs: The existing folders of runs and searches that use the stage, relative to the store.
    """

    identity: str
    record: Mapping[str, Any] | None
    size_bytes: int
    used: float
    runs: tuple[str, ...]


class StageStore:
    """Stages under ``root``, each in a folder that is named by its identity.

    A folder with ``stage.json`` is a finished stage, which is found again only if its files have the checksums that
    are recorded there; a folder without it holds the checkpoints of an interrupted one.

    Args:
        root: Folder of all stages; it is created with the first stage.
        refresh_before: Finished stages older than this (seconds since 1970) are made again; None keeps all.
        say: Tells a person in one line of a stage that cannot be used; None tells the log.
    """

    def __init__(
        self, root: Path, refresh_before: float | None = None, say: Callable[[str], object] | None = None
    ) -> None:
        self.root = root.expanduser().resolve()
        self.refresh_before = refresh_before
        self._say_line = say or log.warning
        self._said: set[str] = set()

    def folder(self, identity: str) -> Path:
        """Return the folder of a stage, which need not exist."""
        return self.root / identity

    @contextmanager
    def hold(self, identity: str, run: Path) -> Iterator[Path]:
        """Create the stage's folder, lock it against other processes, and note that ``run`` uses the stage.

        A damaged stage is emptied, so that it is made anew. Where the store cannot be written, a stage that is found
        is yielded without any of this. After an error, only checkpoints of an unfinished stage stay, so that it can
        resume.

        Raises:
            PermissionError: The stage must be made, and the store cannot be written.
        """
        folder = self.folder(identity)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._lock(identity))
                folder.mkdir(exist_ok=True)
                self._prepare(identity)
                self._note(folder, run)
            except OSError as error:
                if error.errno not in NOT_WRITABLE:
                    raise
                self._check_usable(identity, error)
            try:
                yield folder
            except BaseException:
                with contextlib.suppress(OSError):
                    self._tidy(folder)
                raise

    def find(self, identity: str) -> dict[str, Any] | None:
        """Return the record of a finished stage whose files are as recorded; None if there is no such stage."""
        record, damage = self._examined(identity)
        return record if damage is None else None

    def record(self, identity: str) -> dict[str, Any] | None:
        """Return the record of a finished stage without a look at its files; None if there is none that can be read."""
        try:
            return read_record(self.folder(identity) / RECORD)
        except (InputError, OSError):
            return None

    def finish(self, identity: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``stage.json``, which makes the stage finished and its files read-only, and remove its checkpoints.

        A number that is not finite, such as the mean loss of an epoch with an overflow, is written as null.

        Returns:
            The record as ``find`` returns it.
        """
        folder = self.folder(identity)
        files = {path.name: path for path in sorted(folder.iterdir()) if _is_kept(path)}
        for path in files.values():
            _make_read_only(path)
        found = checksums(files, folder / CHECKED)
        content = _finite(record)
        content[FILES] = {
            name: {"sha256": found[name], "size_bytes": path.stat().st_size} for name, path in files.items()
        }
        content[RECORD_DIGEST] = _digest_of(content)
        write_record(folder / RECORD, content)
        _make_read_only(folder / RECORD)
        self._remove_unneeded(folder)
        return read_record(folder / RECORD)

    def copy(self, identity: str, name: str, to: Path) -> None:
        """Copy a file of a finished stage in place of ``to``, and check the copy.

        Raises:
            InputError: The copy is not as recorded.
        """
        folder = self.folder(identity)
        record = read_record(folder / RECORD)
        copy_file(folder / name, to)
        if sha256_of(to) != record[FILES][name]["sha256"]:
            to.unlink()
            with contextlib.suppress(OSError):
                (folder / CHECKED).unlink(missing_ok=True)  # so that the stage is found to be damaged
            raise InputError(f"{folder / name} is damaged; the same command, given again, makes it anew")

    def adopt(self, record: Path, weights: Path, run: Path) -> None:
        """Copy a finished stage into the store from files elsewhere, unless the store has it or the files are damaged.

        Args:
            record: A copy of its ``stage.json``; its ``spec`` determines the stage's identity.
            weights: A copy of its weights.
            run: The run folder that uses it.
        """
        content = read_record(record)
        if "spec" not in content:
            self._say(f"{record} is damaged and is not used.")
            return
        name = identity(content["spec"])
        if self.find(name) is not None:
            return
        if FILES not in content:
            self._say(UNCHECKED)
            return
        if content.get(RECORD_DIGEST) != _digest_of(content) or not _names_files(content):
            self._say(f"{record} is damaged and is not used.")
            return
        if not weights.is_file() or _first_damaged(content, {WEIGHTS: sha256_of(weights)}) is not None:
            self._say(f"{weights} is damaged and is not used.")
            return
        with self.hold(name, run) as folder:
            if self.find(name) is None:
                for source, to in ((weights, folder / WEIGHTS), (record, folder / RECORD)):  # the record finishes it
                    copy_file(source, to)
                    _make_read_only(to)
                self._remove_unneeded(folder)

    def stages(self) -> list[StoredStage]:
        """List all stages, the one that was used last first."""
        if not self.root.is_dir():
            return []
        found = []
        counted: set[tuple[int, int]] = set()
        for folder in sorted(self.root.iterdir()):
            if not folder.is_dir() or folder.name.startswith("."):
                continue
            files = {(s.st_dev, s.st_ino): s for s in (path.stat() for path in folder.rglob("*") if path.is_file())}
            found.append(
                StoredStage(
                    identity=folder.name,
                    record=self.record(folder.name),
                    size_bytes=sum(status.st_size for key, status in files.items() if key not in counted),
                    used=max((status.st_mtime for status in files.values()), default=folder.stat().st_mtime),
                    runs=self._runs(folder),
                )
            )
            counted |= files.keys()
        return sorted(found, key=lambda stage: stage.used, reverse=True)

    def remove(self, stage: StoredStage) -> bool:
        """Remove a stage's folder, unless a process holds it or another run uses it since it was listed.

        Returns:
            Whether it was removed.
        """
        from filelock import Timeout

        try:
            with self._lock(stage.identity, timeout=0):
                if not set(self._runs(self.folder(stage.identity))) <= set(stage.runs):
                    return False
                shutil.rmtree(self.folder(stage.identity))
                return True
        except Timeout:
            return False

    def _lock(self, identity: str, timeout: float = -1) -> contextlib.AbstractContextManager[Any]:
        from filelock import FileLock

        (self.root / LOCKS).mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / LOCKS / identity, timeout=timeout, mode=0o666)

    def _prepare(self, identity: str) -> None:
        """Empty the folder of a stage that is to be refreshed, or cannot be used."""
        folder = self.folder(identity)
        if self._is_stale(folder):
            self._empty(folder)
        damage = self._examined(identity)[1]
        if damage is not None:
            self._say(damage)
            self._empty(folder)

    def _check_usable(self, identity: str, error: OSError) -> None:
        """Raise if a stage needs writing; ``error`` says why that cannot be done."""
        if self.find(identity) is None or self._is_stale(self.folder(identity)):
            reason = f"stage {identity} must be made, and nothing can be written here ({error.strerror}); "
            reason += "make the folder writable, or name another by artifacts=FOLDER"
            raise PermissionError(error.errno, reason, str(self.root)) from error

    def _examined(self, identity: str) -> tuple[dict[str, Any] | None, str | None]:
        """The record of a finished stage, and why the stage cannot be used; None and None if it is unfinished."""
        folder = self.folder(identity)
        try:
            record = read_record(folder / RECORD)
            if FILES not in record:
                return record, UNCHECKED
            if record.get(RECORD_DIGEST) != _digest_of(record) or not _names_files(record):
                return record, _sentence(identity, RECORD)
            there = {name: path for name in record[FILES] if (path := folder / name).is_file()}
            damaged = _first_damaged(record, checksums(there, folder / CHECKED))
        except FileNotFoundError:  # also if another process empties the folder now
            return None, None
        except LaterSchemaError:
            raise
        except (InputError, IsADirectoryError):
            return None, _sentence(identity, RECORD)
        return record, None if damaged is None else _sentence(identity, damaged)

    def _is_stale(self, folder: Path) -> bool:
        return self.refresh_before is not None and self._finished_at(folder) < self.refresh_before

    def _note(self, folder: Path, run: Path) -> None:
        """Note that ``run`` uses the stage now."""
        name = os.path.relpath(run, self.root)  # so that stages and runs may move together
        named = self._named(folder)
        if name not in named:
            write_text(folder / RUNS, "".join(f"{each}\n" for each in [*named, name]))
        os.utime(folder / RUNS)

    def _named(self, folder: Path) -> list[str]:
        return (folder / RUNS).read_text(encoding="utf-8").splitlines() if (folder / RUNS).exists() else []

    def _runs(self, folder: Path) -> tuple[str, ...]:
        """The existing folders that use a stage; trials of earlier versions named the store itself (``.``)."""
        return tuple(run for run in self._named(folder) if run != "." and (self.root / run).is_dir())

    def _say(self, line: str) -> None:
        """Say a line, once."""
        if line not in self._said:
            self._said.add(line)
            self._say_line(line)

    @staticmethod
    def _remove_unneeded(folder: Path) -> None:
        """Remove what a finished stage does not need."""
        for path in [*folder.glob("*.ckpt"), *folder.glob("*.part")]:
            path.unlink()

    @staticmethod
    def _finished_at(folder: Path) -> float:
        """Time at which the stage was finished, or at which the last checkpoint of an unfinished one was written."""
        record = folder / RECORD
        made = [record] if record.exists() else list(folder.glob("*.ckpt"))
        return max((path.stat().st_mtime for path in made), default=time.time())

    @staticmethod
    def _tidy(folder: Path) -> None:
        """Remove half-written files, of an unfinished stage all but checkpoints; the whole folder if none is left."""
        finished = (folder / RECORD).exists()
        for path in folder.iterdir():
            if path.suffix == ".part" or (not finished and path.suffix != ".ckpt" and path.name != RUNS):
                path.unlink()
        if {path.name for path in folder.iterdir()} <= {RUNS}:
            shutil.rmtree(folder)

    @staticmethod
    def _empty(folder: Path) -> None:
        """Remove all of a stage but the list of its runs, the record first."""
        for path in sorted(folder.iterdir(), key=lambda path: path.name != RECORD):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != RUNS:
                path.unlink()


def _sentence(identity: str, name: str) -> str:
    return f"{name} of stage {identity} is damaged; the stage is made anew."


def _first_damaged(record: Mapping[str, Any], found: Mapping[str, str]) -> str | None:
    """The first file that has another checksum than the record names, or none."""
    return next((name for name, file in record[FILES].items() if found.get(name) != file["sha256"]), None)


def _names_files(record: Mapping[str, Any]) -> bool:
    """Whether a record has a checksum for each file, as every record has that this project wrote."""
    files = record[FILES]
    return isinstance(files, dict) and all(isinstance(each, dict) and "sha256" in each for each in files.values())


def _digest_of(record: Mapping[str, Any]) -> str:
    """Hash of what a stage says of itself."""
    content = {key: value for key, value in record.items() if key not in ("schema", RECORD_DIGEST)}
    return identity(json.loads(json.dumps(content)))


def _is_kept(path: Path) -> bool:
    """Whether a file is one of a finished stage's, which its record names."""
    return path.is_file() and path.name not in (RECORD, RUNS, CHECKED) and path.suffix not in (".ckpt", ".part")


def _make_read_only(path: Path) -> None:
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def _finite(value: Any) -> Any:
    """``value`` with null in place of each number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
