"""The folder of stages: finished stages are reused, interrupted ones resume."""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.files.records import read_record, write_record
from src.files.writing import replacing
from src.stages.identity import identity

RECORD = "stage.json"
WEIGHTS = "weights.safetensors"
RUNS = "runs.txt"
LOCKS = ".locks"  # a folder beside the stages; a name that begins with a dot is no stage
LEAST_FREE_BYTES = 64 * 1024  # a disk with less is full


@dataclass(frozen=True)
class StoredStage:
    """A stage in the store, as ``python -m src.artifacts`` lists it.

    Attributes:
        identity: Identity of the stage, which is the name of its folder.
        record: Content of ``stage.json``; None if the stage is unfinished.
        size_bytes: Size of all files in the folder.
        changed: Time at which a file in the folder was last written, in seconds since 1970.
        runs: The existing run folders that use the stage, relative to the store.
    """

    identity: str
    record: Mapping[str, Any] | None
    size_bytes: int
    changed: float
    runs: tuple[str, ...]


class StageStore:
    """Stages under ``root``, each in a folder that is named by its identity.

    A folder with ``stage.json`` is a finished stage; a folder without it holds the checkpoints of an interrupted one.

    Args:
        root: Folder of all stages; it is created with the first stage.
        refresh_before: Finished stages older than this (seconds since 1970) are made again; None keeps all.
    """

    def __init__(self, root: Path, refresh_before: float | None = None) -> None:
        self.root = root.expanduser().resolve()
        self.refresh_before = refresh_before

    def folder(self, identity: str) -> Path:
        """Return the folder of a stage, which need not exist."""
        return self.root / identity

    @contextmanager
    def hold(self, identity: str, run: Path) -> Iterator[Path]:
        """Create the stage's folder, lock it against other processes, and note that ``run`` uses the stage.

        After an error, half-written files are removed; checkpoints stay, so that the stage can resume.
        """
        from filelock import FileLock

        folder = self.folder(identity)
        (self.root / LOCKS).mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / LOCKS / identity):
            folder.mkdir(exist_ok=True)
            runs = folder / RUNS
            named = runs.read_text().splitlines() if runs.exists() else []
            name = os.path.relpath(run, self.root)  # so that stages and runs may move together
            if name not in named:
                with runs.open("a") as file:
                    file.write(f"{name}\n")
            if self.refresh_before is not None and self._finished_at(folder) < self.refresh_before:
                self._empty(folder)
            try:
                yield folder
            except BaseException as error:
                full = shutil.disk_usage(self.root).free < LEAST_FREE_BYTES or "No space left" in str(error)
                self._tidy(folder)
                if isinstance(error, Exception) and full:
                    raise OSError(errno.ENOSPC, "the disk is full", str(self.root)) from error
                raise

    def find(self, identity: str) -> dict[str, Any] | None:
        """Return the record of a finished stage; None if it is unfinished or not there."""
        path = self.folder(identity) / RECORD
        return read_record(path) if path.exists() else None

    def finish(self, identity: str, record: Mapping[str, Any]) -> None:
        """Write ``stage.json``, which makes the stage finished, and remove its checkpoints.

        A number that is not finite, such as the mean loss of an epoch with an overflow, is written as null.
        """
        folder = self.folder(identity)
        write_record(folder / RECORD, _finite(record))
        self._remove_unneeded(folder)

    def adopt(self, record: Path, weights: Path, run: Path) -> None:
        """Copy a finished stage into the store from files elsewhere, unless the store has it.

        Args:
            record: A copy of its ``stage.json``; its ``spec`` determines the stage's identity.
            weights: A copy of its weights.
            run: The run folder that uses it.
        """
        name = identity(read_record(record)["spec"])
        if self.find(name) is None:
            with self.hold(name, run) as folder:
                if self.find(name) is None:
                    for source, name_here in ((weights, WEIGHTS), (record, RECORD)):  # the record last: it finishes
                        with replacing(folder / name_here) as part:
                            shutil.copyfile(source, part)
                    self._remove_unneeded(folder)

    def stages(self) -> list[StoredStage]:
        """List all stages, the newest first."""
        if not self.root.is_dir():
            return []
        found = []
        for folder in self.root.iterdir():
            if not folder.is_dir() or folder.name.startswith("."):
                continue
            files = [path for path in folder.rglob("*") if path.is_file()]
            named = (folder / RUNS).read_text().splitlines() if (folder / RUNS).exists() else []
            found.append(
                StoredStage(
                    identity=folder.name,
                    record=self.find(folder.name),
                    size_bytes=sum(path.stat().st_size for path in files),
                    changed=max((path.stat().st_mtime for path in files), default=folder.stat().st_mtime),
                    runs=tuple(run for run in named if (self.root / run).is_dir()),
                )
            )
        return sorted(found, key=lambda stage: stage.changed, reverse=True)

    def remove(self, stage: StoredStage) -> None:
        """Remove a stage's folder; wait if a process holds it."""
        from filelock import FileLock

        (self.root / LOCKS).mkdir(exist_ok=True)
        with FileLock(self.root / LOCKS / stage.identity):
            shutil.rmtree(self.folder(stage.identity))

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
        """Remove half-written files, and the whole folder if nothing of the stage is left."""
        for part in folder.glob("*.part"):
            part.unlink()
        if {path.name for path in folder.iterdir()} <= {RUNS}:
            shutil.rmtree(folder)

    @staticmethod
    def _empty(folder: Path) -> None:
        (folder / RECORD).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name != RUNS and path.is_file():
                path.unlink()


def _finite(value: Any) -> Any:
    """``value`` with null in place of each number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
