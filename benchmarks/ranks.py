"""Whether a training by two processes on the CPU (gloo) gives the accuracy of a training by one, over several seeds.

``python -m benchmarks.ranks [--seeds 5] [--methods prune_magnitude,cluster] [--json FILE] [override ...]``

Each seed and method is a whole run of digits, by one process of one thread and by two; baselines are shared by methods.
Printed are test accuracies of the exported files, and the seconds of the training as its stages record them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from src.metrics.machine import machine

DIGITS = ["data=digits", "model=small_cnn", "training=digits", "tracking=off", "timing.seconds=0.05"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 (%(default)s)")
    parser.add_argument("--methods", default="prune_magnitude,cluster", help="methods (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("overrides", nargs="*", default=[])
    given = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, "seeds": given.seeds}
    for devices in (1, 2):
        found[str(devices)] = runs(devices, given.seeds, given.methods, given.overrides)
        for variant, figures in found[str(devices)].items():
            print(devices, variant, figures, flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def runs(devices: int, seeds: int, methods: str, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """Accuracies of each variant over the seeds, mean and deviation, and seconds of its training."""
    accuracies: dict[str, dict[int, float]] = {}
    nonzero: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sweep = [f"method={methods}", f"seed={','.join(map(str, range(seeds)))}", f"training.devices={devices}"]
        places = [f"artifacts={folder}/artifacts", f"hydra.sweep.dir={folder}/out", "training.threads=1"]
        subprocess.run(
            [sys.executable, "-m", "src.run", "-m", *DIGITS, *sweep, *places, *overrides],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for path in sorted(Path(folder, "out").glob("*/results.json")):
            results = json.loads(path.read_text())
            for row in results["rows"]:
                accuracies.setdefault(row["variant"], {})[results["seed"]] = row["accuracy"]
                nonzero.setdefault(row["variant"], []).append(row["nonzero_parameters"])
        seconds = trained_seconds(Path(folder, "artifacts"))
    return {
        variant: {
            "accuracy": [round(value, 4) for _, value in sorted(found.items())],
            "mean": round(statistics.mean(found.values()), 4),
            "deviation": round(statistics.stdev(found.values()), 4) if len(found) > 1 else None,
            "nonzero_parameters": sorted(set(nonzero[variant])),
            "training_seconds": seconds,
        }
        for variant, found in accuracies.items()
    }


def trained_seconds(store: Path) -> float:
    """Mean over all trained stages."""
    records = [json.loads(path.read_text()) for path in store.glob("*/stage.json")]
    sums = [sum(epoch["seconds"] for epoch in record["epochs"]) for record in records if record.get("epochs")]
    return round(statistics.mean(sums), 2)


if __name__ == "__main__":
    main()
