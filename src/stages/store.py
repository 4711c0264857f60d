"""The folder of stages: what was made once is found again, what was cut off is gone on with."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.stages.identity import identity

RECORD = "stage.json"
WEIGHTS = "weights.safetensors"
RUNS = "runs.txt"
LOCKS = ".locks"
FULL = 64 * 1024  # bytes left on a disk that is as good as full


@dataclass(frozen=True)
class Stage:
    """A stage's folder as ``python -m src.artifacts`` lists it.

    Attributes:
        identity: Its name.
        record: What ``stage.json`` says; None while it is unfinished.
        size_bytes: Of everything in the folder.
        changed: When something in it was last written, seconds since 1970.
        runs: The existing run folders that name it.
    """

    identity: str
    record: Mapping[str, Any] | None
    size_bytes: int
    changed: float
    runs: tuple[str, ...]


class StageStore:
    """Stages under ``root``, one folder an identity.

    A folder with ``stage.json`` is finished; one without holds the checkpoints of a stage that was cut off.

    Args:
        root: Made when the first stage is.
        refresh_before: Finished stages older than this (seconds since 1970) are made anew; None refreshes none.
    """

    def __init__(self, root: Path, refresh_before: float | None = None) -> None:
        self.root = root.expanduser().resolve()
        self.refresh_before = refresh_before

    def folder(self, identity: str) -> Path:
        """The stage's folder; it need not exist."""
        return self.root / identity

    @contextmanager
    def hold(self, identity: str, run: Path) -> Iterator[Path]:
        """Make the stage's folder, write down that ``run`` names it, and keep other processes out meanwhile."""
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
                full = shutil.disk_usage(self.root).free < FULL or "No space left" in str(error)
                self._tidy(folder)
                if isinstance(error, Exception) and full:
                    raise OSError(errno.ENOSPC, "the disk is full", str(self.root)) from error
                raise

    def find(self, identity: str) -> dict[str, Any] | None:
        """The record of a finished stage, else None."""
        path = self.folder(identity) / RECORD
        if not path.exists():
            return None
        record: dict[str, Any] = json.loads(path.read_text())
        return record

    def finish(self, identity: str, record: Mapping[str, Any]) -> None:
        """Write ``stage.json``, which makes the stage finished, and drop its checkpoints."""
        folder = self.folder(identity)
        part = folder / (RECORD + ".part")
        part.write_text(json.dumps(record, indent=1))
        os.replace(part, folder / RECORD)
        for left in [*folder.glob("*.ckpt"), *folder.glob("*.part")]:
            left.unlink()

    def adopt(self, record: Path, weights: Path, run: Path) -> None:
        """Take in a finished stage whose record and weights lie elsewhere, unless it is here.

        Args:
            record: A copy of its ``stage.json``, from whose ``spec`` its identity follows.
            weights: A copy of its weights.
            run: The run folder that names it.
        """
        found: dict[str, Any] = json.loads(record.read_text())
        name = identity(found["spec"])
        if self.find(name) is None:
            with self.hold(name, run) as folder:
                if self.find(name) is None:
                    shutil.copyfile(weights, folder / WEIGHTS)
                    self.finish(name, found)

    def stages(self) -> list[Stage]:
        """Every stage there is, the newest first."""
        if not self.root.is_dir():
            return []
        found = []
        for folder in self.root.iterdir():
            if not folder.is_dir() or folder.name.startswith("."):
                continue
            files = [path for path in folder.rglob("*") if path.is_file()]
            named = (folder / RUNS).read_text().splitlines() if (folder / RUNS).exists() else []
            found.append(
                Stage(
                    identity=folder.name,
                    record=self.find(folder.name),
                    size_bytes=sum(path.stat().st_size for path in files),
                    changed=max((path.stat().st_mtime for path in files), default=folder.stat().st_mtime),
                    runs=tuple(run for run in named if (self.root / run).is_dir()),
                )
            )
        return sorted(found, key=lambda stage: stage.changed, reverse=True)

    def remove(self, stage: Stage) -> None:
        """Remove a stage's folder; one that a process holds just now is waited for."""
        from filelock import FileLock

        (self.root / LOCKS).mkdir(exist_ok=True)
        with FileLock(self.root / LOCKS / stage.identity):
            shutil.rmtree(self.folder(stage.identity))

    @staticmethod
    def _finished_at(folder: Path) -> float:
        """When it was finished; of one that was cut off, when its last checkpoint was written."""
        record = folder / RECORD
        made = [record] if record.exists() else list(folder.glob("*.ckpt"))
        return max((path.stat().st_mtime for path in made), default=time.time())

    @staticmethod
    def _tidy(folder: Path) -> None:
        """Leave no half-written file, and no folder of a stage that got nowhere."""
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
