"""Where runs are written down for a team to look at: one protocol for every tracking store.

Each class here does nothing by itself, so that a tracker overrides what its store can hold, and ``Tracker()`` is no
tracking. Whatever a store raises becomes a ``TrackingError``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.contracts.data import DataSplits
from src.contracts.errors import InputError
from src.contracts.results import Refused, Row
from src.contracts.training import Epoch


@dataclass(frozen=True)
class DataDescription:
    """What is logged of a data set.

    Attributes:
        name: How people call it.
        checksum: SHA-256 over every pixel and label.
        image_shape: ``(channels, height, width)``.
        classes: The label names, in label order.
        mean, std: Per channel, of pixels scaled to [0, 1].
        images: The number of images in each part.
    """

    name: str
    checksum: str
    image_shape: Sequence[int]
    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    images: Mapping[str, int]

    @classmethod
    def of(cls, data: DataSplits) -> DataDescription:
        """Describe a loaded data set."""
        parts = {"train": data.train, "validation": data.validation, "test": data.test}
        images = {part: len(each) for part, each in parts.items()}
        return cls(data.name, data.checksum, data.image_shape, data.classes, data.mean, data.std, images)


@dataclass(frozen=True)
class RunDescription:
    """What is known of a run before its work begins.

    Attributes:
        experiment, variant, model: Their names.
        seed: Seed of the run.
        data: The data set.
        config: The resolved config.
        command: The command that makes the run again.
        folder: The run's folder.
        survey: The folder of the survey or search that the run is a member of; None for a single run.
        git_commit: Commit of the source; None outside git.
        versions: Versions of the libraries.
        key: Identifies the run before a store has given it an identifier.
        started: Seconds since 1970.
    """

    experiment: str
    variant: str
    model: str
    seed: int
    data: DataDescription
    config: Mapping[str, Any]
    command: str
    folder: Path
    survey: Path | None
    git_commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.time)


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial as a tracking store keeps it.

    Attributes:
        number: Number of the trial.
        params: The values that the trial chose, by dimension.
        values: The measured columns by name; empty if the trial failed.
        tags: Why the trial was stopped or failed, and whether it is within the budget.
        failed: Whether it failed.
        started, ended: Seconds since 1970.
    """

    number: int
    params: Mapping[str, Any]
    values: Mapping[str, float]
    tags: Mapping[str, str]
    failed: bool
    started: float
    ended: float


@dataclass(frozen=True)
class Registration:
    """A model that a search chose within its budget, for a registry of models.

    Attributes:
        name: Name of the registered model, e.g. ``mnist-mnist_cnn``.
        row: Row of the file that is registered; a run has logged it.
        rows: Rows of all files of the model, one for each target, then the rows of the baseline's files.
        objective: Name of the column that the search optimized.
        budget: The limits that were set.
        command: The command that makes the model again.
        git_commit: Commit of the source; None outside git.
        point: The values that the trial chose, by dimension.
    """

    name: str
    row: Row
    rows: Sequence[Row]
    objective: str
    budget: Mapping[str, Any]
    command: str
    git_commit: str | None
    point: Mapping[str, Any]


@dataclass(frozen=True)
class DeviceRow:
    """A model measured on a board.

    Attributes:
        host_run: Identifier, in the store, of the run that made the model.
        name: Name of the model in its bundle.
        metrics: Measured numbers by name.
        tags: Facts about the model and the board; ``variant``, ``target`` and ``board`` are among them.
    """

    host_run: str
    name: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class TrackedRun:
    """An open run. Whatever is logged twice stands in the store once, so that what was cut off can be logged again.

    Attributes:
        run_id: Identifier of the run in the store; None if there is no store.
        notes: Lines for a person: what was found or mended in the store.
    """

    run_id: str | None = None
    notes: Sequence[str] = ()

    def epoch(self, stage: str, epoch: Epoch) -> None:
        """Log one epoch of a stage's training."""

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        """Log the result rows and the files of ``folder``, the run's folder, which holds the rows' artifacts."""

    def refused(self, refused: Sequence[Refused]) -> None:
        """Log the variants whose file its runtime refused, each with its reason."""

    def finish(self, status: str, ended: float | None = None) -> None:
        """Close the run as FINISHED, FAILED or KILLED; it ended then (seconds since 1970), or now."""


class TrackedSearch:
    """A search or survey of which a member's run is in the store; what is logged twice stands there once."""

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Log the trials that the store does not have yet."""

    def register(self, chosen: Registration) -> list[str]:
        """Register the chosen model, move each alias for which it is better, and write ``model_card.md``.

        Returns:
            What was done, in lines for a person; none if there is no registry.
        """
        return []

    def finish(self, status: str, figures: Mapping[str, float], ended: float | None = None) -> None:
        """Log the figures and the result files, and close it as FINISHED, FAILED or KILLED; it ended then, or now."""


class Tracker:
    """A tracking store: a value that is built from ``conf/tracking`` and connects when it is first used.

    Attributes:
        uri: Address of the store; None if there is no store.
        tags: More tags of each run.
    """

    uri: str | None = None
    tags: Mapping[str, str] = {}

    @property
    def compare(self) -> str | None:
        """The address to open, the command to type or the file to read to compare runs; None if there is no store."""
        return None

    def page(self, run_id: str | None) -> str | None:
        """Like ``compare``, but where a store has pages, with the page that compares ``run_id`` with others."""
        return self.compare

    def start(self, run: RunDescription) -> TrackedRun:
        """Open a run. The first member of a survey or search also opens the parent run that its members share.

        A run of the same key, and a member that is run again in the same folder, resume the earlier run.

        Raises:
            TrackingError: The store does not answer.
        """
        return TrackedRun()

    def search(self, folder: Path) -> TrackedSearch:
        """Return the search or survey in ``folder``; the store is first asked when something is logged."""
        return TrackedSearch()

    def forget(self, folder: Path) -> None:
        """Let the next run of the survey or search in ``folder`` open a new parent run; the store keeps the old one."""

    def promote(self, name: str, version: str, alias: str) -> tuple[bool, str]:
        """Move an alias of a registered model to ``version`` if that version is better by the alias's rule.

        Returns:
            Whether the alias now names ``version``, and the reason in one line.

        Raises:
            InputError: There is no registry, or no such model, version or alias.
            TrackingError: The store refuses.
        """
        raise InputError("this tracking store has no registry of models")

    def device_rows(self, digest: str, rows: Sequence[DeviceRow], file: Path) -> tuple[int, int]:
        """Make a run for each row that a board measured, beside the run that made the model.

        Args:
            digest: Identifies the imported content; a row of this digest that the store has is not logged again.
            rows: All rows of one import.
            file: The imported file, kept with each run.

        Returns:
            The number of runs that were made, and the number that the store had already.

        Raises:
            TrackingError: The store refuses, or does not have one of the host's runs; nothing was logged then.
        """
        return 0, 0
