"""A tracking store that fails costs nothing but the tracking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from src.contracts import (
    DataSplits,
    Epoch,
    Registration,
    Row,
    TrackedRun,
    TrackedSearch,
    TrackingError,
    TrialRecord,
)
from src.tracking.guard import GuardedRun, GuardedSearch
from tests.broken_tracker import BreaksAtTheEnd
from tests.tracking.rows import described, row

EPOCH = Epoch(0, 1.5, 0.5, 0.6, 0.1, 2.0, 1.7e9)


class DyingRun(TrackedRun):
    """A run whose store answers the given number of calls."""

    def __init__(self, calls: int) -> None:
        self.run_id, self.left, self.seen = "run", calls, list[str]()

    def epoch(self, stage: str, epoch: Epoch) -> None:
        self.call("epoch")

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        self.call("rows")

    def finish(self, status: str, ended: float | None = None) -> None:
        self.call(status)

    def call(self, name: str) -> None:
        self.seen.append(name)
        if len(self.seen) > self.left:
            raise TrackingError(f"{name} is call {len(self.seen)}")


class DyingSearch(TrackedSearch):
    """A search whose store does not answer."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def trials(self, records: Sequence[TrialRecord]) -> None:
        self.call("trials")

    def register(self, chosen: Registration) -> list[str]:
        self.call("register")
        return ["registered"]

    def finish(self, status: str, figures: Mapping[str, float], ended: float | None = None) -> None:
        self.call(status)

    def call(self, name: str) -> None:
        self.seen.append(name)
        raise TrackingError(f"{name} is call {len(self.seen)}")


def test_the_first_failure_is_kept_and_later_calls_are_skipped(splits: DataSplits, tmp_path: Path) -> None:
    run = GuardedRun(BreaksAtTheEnd().start(described(splits, tmp_path, None, "baseline")))
    run.epoch("baseline", EPOCH)
    assert run.failure is None
    run.rows([], tmp_path)
    run.rows([], tmp_path)
    run.finish("FINISHED")
    assert run.failure == "the disk of the server is full"


def test_a_run_is_closed_after_a_failure_too(tmp_path: Path) -> None:
    inner = DyingRun(calls=1)
    run = GuardedRun(inner)
    assert run.run_id == "run"
    run.epoch("baseline", EPOCH)
    run.epoch("baseline", EPOCH)
    run.rows([], tmp_path)
    run.finish("FAILED")
    assert inner.seen == ["epoch", "epoch", "FAILED"]
    assert run.failure == "epoch is call 2"


def test_a_run_that_cannot_be_closed_says_so(tmp_path: Path) -> None:
    run = GuardedRun(DyingRun(calls=1))
    run.rows([], tmp_path)
    run.finish("FINISHED")
    assert run.failure == "FINISHED is call 2"


def test_another_error_than_one_of_tracking_is_not_hidden(tmp_path: Path) -> None:
    class Wrong(TrackedRun):
        def rows(self, rows: Sequence[Row], folder: Path) -> None:
            raise ValueError("an error of ours")

    with pytest.raises(ValueError, match="an error of ours"):
        GuardedRun(Wrong()).rows([], tmp_path)


def test_a_search_goes_on_without_its_store(tmp_path: Path) -> None:
    inner = DyingSearch()
    search = GuardedSearch(inner)
    search.trials([])
    search.trials([])
    chosen = Registration("m", row(tmp_path, "prune"), [], "size_bytes", {}, "command", None, {})
    assert search.register(chosen) == []
    search.finish("FINISHED", {})
    assert inner.seen == ["trials", "FAILED"]  # what lacks something is not FINISHED
    assert search.failure == "trials is call 1"


def test_a_failure_elsewhere_ends_the_tracking_of_a_search() -> None:
    inner = DyingSearch()
    search = GuardedSearch(inner)
    search.failed(TrackingError("the run of a finalist cannot be opened"))
    search.trials([])
    assert inner.seen == []
    assert search.failure == "the run of a finalist cannot be opened"
