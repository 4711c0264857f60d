"""A survey of 8 short runs: one worker of one thread, one of two, and two of one.

``python -m benchmarks.workers [--json FILE] [--rounds 2] [survey-override ...]``

Each time from empty artifacts, on scikit-learn's digits; whole commands are timed, imports included. With one thread a
worker the results must be the same whoever ran them, latency and what follows from it aside.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from src.metrics.machine import machine
from src.metrics.timing import Timing

# Files are timed one at a time whoever made them: here shortly, since it is the rest that workers share.
SURVEY = ["-m", "+experiment=digits_quickstart", "seed=0,1", "training.epochs=200", "tracking=off"]
SURVEY += ["timing.seconds=0.1", "timing.largest_batch=1"]
KINDS = {
    "one worker of one thread": ["training.threads=1"],
    "one worker of two threads": ["training.threads=2"],
    "two workers of one thread": ["training.threads=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
}
TIMES = {"speedup", "speedup_low", "speedup_high", *(field.name for field in fields(Timing))}
MOVING = {"measured_at", "timed_at", "machine", "member", *TIMES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    rows: dict[str, Any] = {}
    for _ in range(arguments.rounds):
        for kind, given in KINDS.items():
            took, rows[kind] = survey([*SURVEY, *arguments.overrides, *given])
            seconds[kind].append(took)
            print(f"{kind}: {took:.1f} s", flush=True)
    one, two_threads, two = (statistics.median(seconds[kind]) for kind in KINDS)
    same = rows["one worker of one thread"] == rows["two workers of one thread"]
    figures = {
        "machine": machine(),
        "seconds": seconds,
        "of_one_thread": two / one,
        "of_two_threads": two / two_threads,
    }
    print(f"two workers take {two / one:.2f}x of one of one thread, {two / two_threads:.2f}x of one of two threads")
    print("the results are the same" if same else "THE RESULTS DIFFER")
    if arguments.json:
        arguments.json.write_text(json.dumps({**figures, "same": same}, indent=1) + "\n")


def survey(arguments: list[str]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of the whole command, and its rows without what may move."""
    with tempfile.TemporaryDirectory() as folder:
        where = [f"hydra.sweep.dir={folder}/out", f"artifacts={folder}/artifacts"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "src.run", *arguments, *where], check=True, capture_output=True)
        took = time.perf_counter() - started
        found = json.loads((Path(folder) / "out" / "survey.json").read_text())["rows"]
    kept = [{key: value for key, value in row.items() if key not in MOVING} for row in found]
    return took, sorted(kept, key=lambda row: (row["variant"], row["seed"], row["target"]))


if __name__ == "__main__":
    main()
