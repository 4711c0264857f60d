"""Who tells a person how an experiment goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from src.contracts.data import DataSplits
from src.contracts.training import Epoch, TrainingProgress


class Console(Protocol):
    """The lines of one experiment."""

    def line(self, text: str) -> None:
        """Write one line."""
        ...

    def begin(self, experiment: str, variant: str, model: str, splits: DataSplits, seed: int) -> None:
        """Say what is about to be done."""
        ...

    def bar(self, label: str, on_epoch: Callable[[Epoch], None]) -> TrainingProgress:
        """A progress bar for one training; ``on_epoch`` is called after each epoch."""
        ...

    def stage(self, name: str, identity: str, found: bool, seconds: float, validation: float | None) -> None:
        """Remember whether a stage was made or found again; ``end`` says it."""
        ...

    def end(self, seconds: float, found: bool) -> None:
        """Say on one line whether each stage, and the measured files, were made or found again."""
        ...
