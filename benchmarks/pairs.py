"""What a second method preserves of the first one's result, and each pair's accuracy: the table in docs/pairs.md.

``python -m benchmarks.pairs [--write docs/pairs.md] [method ...]``

The small CNN on scikit-learn's digits, every ordered pair of the given methods (by default one of each kind). Zeros,
distinct values and parameters are read from the second step's ``stage.json``. The accuracies are those of the exported
files on the 360 test images: half a point is one or two images.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.command.composition import build_plan, composed
from src.contracts import InputError, Row, TrackedRun
from src.display.terminal import Console
from src.experiment.making import prepare
from src.experiment.plan import Plan
from src.experiment.runner import Experiment
from src.metrics.machine import machine
from src.stages.store import StageStore

KINDS = (
    "prune_magnitude",
    "prune_channels",
    "cluster",
    "low_rank",
    "distill",
    "quantize_int8",
    "quantize_aware_int8",
    "quantize_uniform",
)
DATA = ["data=digits", "model=small_cnn", "training=digits", "training.threads=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(KINDS))
    parser.add_argument("--write", type=Path, help="write the table to this file, below its first paragraphs")
    arguments = parser.parse_args()
    lines = [
        "| first | second | zeros | most values in a layer | parameters | accuracy alone | accuracy of the pair |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for first in arguments.methods:
            pairs = [line(first, second, Path(folder)) for second in arguments.methods]
            reasons = {pair.split("|")[3] for pair in pairs}
            if len(pairs) > 1 and len(reasons) == 1:
                pairs = [f"| {first} | every method |{reasons.pop()}| | | | |"]
            lines += pairs
            print("\n".join(pairs), flush=True)
    if arguments.write:
        head = (arguments.write.read_text().partition("| first |")[0]) if arguments.write.exists() else ""
        arguments.write.write_text(head + "\n".join(lines) + f"\n\n{machine()}\n")


def line(first: str, second: str, folder: Path) -> str:
    """The table's line for a pair."""
    if first == second:
        more = {"prune_magnitude": ["method.steps.second.sparsity=0.9"], "cluster": ["method.steps.second.clusters=8"]}
        given = more.get(second, [])
    else:
        given = []
    steps = [f"+method@method.steps.first={first}", f"+method@method.steps.second={second}"]
    try:
        config, choices = composed([*DATA, "method=chain", *steps, "method.name=pair", *given])
        plan = build_plan(config, choices)
        row = compressed_row(plan, folder)
        alone = compressed_row(build_plan(*composed([*DATA, f"method={first}"])), folder)
        store = StageStore(folder / "artifacts")
        stages = plan.stages(plan.data.value.load())
        before, after = (described(store.find(stage.identity)) for stage in stages[1:])
    except InputError as error:
        return f"| {first} | {second} | refused: {str(error).partition(': ')[2].partition('. ')[0]} | | | | |"
    cells = [f"{b} → {a}" if b != a else f"{a}" for b, a in zip(before, after, strict=True)]
    return f"| {first} | {second} | {' | '.join(cells)} | {100 * alone.accuracy:.1f} % | {100 * row.accuracy:.1f} % |"


def compressed_row(plan: Plan, folder: Path) -> Row:
    """Run a plan; return the row of the compressed model's file."""
    (folder / "run").mkdir(exist_ok=True)
    store, console = StageStore(folder / "artifacts"), Console(io.StringIO(), "")
    experiment = Experiment(
        plan, prepare(plan), store=store, tracked=TrackedRun(), console=console, folder=folder / "run"
    )
    rows, _ = experiment.run()
    return rows[-1]


def described(record: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Share of zeros, the most distinct values in a layer, and parameters, as text."""
    assert record is not None
    layers = record["layers"]
    total = sum(layer["parameters"] for layer in layers)
    zeros = sum(layer["sparsity"] * layer["parameters"] for layer in layers) / total
    return f"{zeros:.1%}", f"{max(layer['distinct_values'] for layer in layers):,}", f"{total:,}"


if __name__ == "__main__":
    main()
