"""A search that is logged from its start to its end, and a process that kills itself before one of the writes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from src.command.syncing import close_earlier
from src.contracts import DataDescription, Epoch, Registration, RunDescription, Tracker, TrialRecord
from src.files.writing import write_text
from src.tracking.guard import GuardedRun, GuardedSearch
from tests.tracking.rows import row

WRITES = ("create_", "log_", "set_", "finalize_", "delete_", "update_")
DATA = DataDescription("shapes", "c" * 64, (3, 16, 16), ("circle", "square"), (0.5,), (0.5,), {"train": 54, "test": 20})
TRIALS = [TrialRecord(n, {"it's": n}, {"size_bytes": 10.0 + n}, {}, False, 1.7e9, 1.7e9 + 5) for n in range(2)]


def tracker(name: str, uri: str) -> Tracker:
    """The tracker at ``uri``."""
    from src.tracking.jsonl import JsonLines
    from src.tracking.mlflow import MlflowTracker

    return JsonLines(uri=uri) if name == "jsonl" else MlflowTracker(uri=uri, system_metrics=False)


def log_everything(root: Path, used: Tracker, name: str) -> None:
    """A search in ``root`` with one member: its run, two trials, a registered model."""
    folder = root / "search" / "baseline"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row(folder, "baseline"), row(folder, "prune", accuracy=0.8)]
    described = RunDescription(
        "digits", "prune", "small_cnn", 0, DATA, {"seed": 0}, "python -m src.run", folder, root / "search"
    )
    close_earlier(root / "search", root / "artifacts")
    close_earlier(folder, root / "artifacts")
    run = GuardedRun.start(used, described, root / "artifacts", name)
    run.epoch("baseline", Epoch(0, 1.5, 0.5, 0.6, 0.1, 2.0, 1.7e9))
    run.epoch("baseline", Epoch(1, 1.0, 0.7, 0.8, 0.1, 2.0, 1.7e9 + 2))
    run.measured(rows)
    write_text(folder / "results.json", "{}")
    run.rows(rows, folder)
    run.finish("FINISHED")
    search = GuardedSearch.of(used, root / "search", root / "artifacts")
    search.trials(TRIALS)
    write_text(root / "search" / "search.json", "{}")
    search.register(Registration("shapes-net", rows[1], rows, "size_bytes", {}, "python", None, {}))
    search.finish("FINISHED", {"trial_seconds": 12.0})
    assert (run.failure, search.failure) == (None, None)


def kill_before(number: int) -> list[str]:
    """Let MLflow's client end the process before its write ``number``; return the names of the writes, which grow."""
    from mlflow import MlflowClient

    made: list[str] = []

    def counted(name: str, call: Any) -> Any:
        def write(*arguments: Any, **named: Any) -> Any:
            made.append(name)
            if len(made) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return write

    for name in [name for name in dir(MlflowClient) if name.startswith(WRITES)]:
        setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
    return made
