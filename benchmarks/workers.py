"""A survey of 8 short runs: by one worker with one thread, by one with two threads, and by two with one thread each.

``python -m benchmarks.workers [--json FILE] [--rounds 2] [survey-override ...]``

Each survey starts from empty artifacts, on scikit-learn's digits; whole commands are timed, imports included. With one
thread for each worker, the results must not depend on the number of workers; times, and what follows from them, may.
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

# Files are timed one at a time, however many workers there are: timing is kept short, since workers cannot share it.
SURVEY = ["-m", "+experiment=digits_quickstart", "seed=0,1", "training.epochs=200", "tracking=off"]
SURVEY += ["timing.seconds=0.1", "timing.largest_batch=1"]
KINDS = {
    "one worker of one thread": ["training.threads=1"],
    "one worker of two threads": ["training.threads=2"],
    "two workers of one thread": ["training.threads=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
}
TIME_COLUMNS = {"speedup", "speedup_low", "speedup_high", *(field.name for field in fields(Timing))}
VARYING = {"measured_at", "timed_at", "machine", "member", *TIME_COLUMNS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=2, help="surveys of each kind (%(default)s)")
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
    """Seconds of the whole command, and its rows without the columns that vary."""
    with tempfile.TemporaryDirectory() as folder:
        places = [f"hydra.sweep.dir={folder}/out", f"artifacts={folder}/artifacts"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "src.run", *arguments, *places], check=True, capture_output=True)
        took = time.perf_counter() - started
        found = json.loads((Path(folder) / "out" / "survey.json").read_text())["rows"]
    kept = [{key: value for key, value in row.items() if key not in VARYING} for row in found]
    return took, sorted(kept, key=lambda row: (row["variant"], row["seed"], row["target"]))


if __name__ == "__main__":
    main()
