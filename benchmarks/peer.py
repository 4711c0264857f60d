"""TensorFlow's Model Optimization toolkit against this project, on an MNIST CNN of 1.13 M parameters.

``python -m benchmarks.peer [--weights FILE] [--json FILE] [key=value ...]``

Each line is one call of the command, whose baseline is trained once (or read from ``--weights``). It shows figures of
the run's ``results.json``: accuracy of the exported file on the 10,000 test images, its bytes, and its bytes gzipped.
The toolkit's figures, written here, were measured on a machine of the same kind.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

# accuracy in %, bytes of the file, bytes gzipped
TOOLKIT = {
    "float": (98.94, 4_507_436, None),
    "INT8": (98.96, 1_136_096, None),
    "90 % pruned": (98.80, None, 763_872),
    "pruned, 16 clusters": (98.94, None, 213_904),
    "pruned, 16 clusters, INT8": (98.94, None, 152_841),
}
METHODS = {
    "float": ["method=baseline"],
    "INT8": ["method=quantize_int8"],
    "90 % pruned": ["method=prune_magnitude", "method.sparsity=0.9"],
    "pruned, 16 clusters": ["method=deep_compression", "method.steps.prune.sparsity=0.95"],
    "pruned, 16 clusters, INT8": ["method=prune_cluster_quantize", "method.steps.prune.sparsity=0.95"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="weights of a trained baseline")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("overrides", nargs="*", help="more overrides for every call of the command")
    arguments = parser.parse_args()
    rows = {}
    for line, method in METHODS.items():
        rows[line] = run([*method, *arguments.overrides], arguments.weights)
        print(as_line(line, rows[line]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"peer": TOOLKIT, "rows": rows}, indent=1) + "\n")


def run(overrides: list[str], weights: Path | None) -> dict:
    """The row of the compressed model of one run."""
    with tempfile.TemporaryDirectory() as folder:
        given = ["data=mnist", "model=mnist_cnn", "training=mnist", "tracking=off", f"hydra.run.dir={folder}"]
        given += [f"model.weights={weights.absolute()}"] if weights else []
        subprocess.run([sys.executable, "-m", "src.run", *given, *overrides], check=True, stdout=subprocess.DEVNULL)
        row: dict = json.loads((Path(folder) / "results.json").read_text())["rows"][-1]
    return row


def as_line(line: str, row: dict) -> str:
    """This project's figures and the toolkit's, as a line for a person."""
    accuracy, size, zipped = TOOLKIT[line]
    ours = f"{100 * row['accuracy']:.2f} %, {row['size_bytes']:,} B, gzip {row['size_gzip_bytes']:,} B"
    theirs = f"{accuracy:.2f} %" + (f", {size:,} B" if size else "") + (f", gzip {zipped:,} B" if zipped else "")
    return f"{line:<26} {ours:<46} TF-MOT: {theirs}"


if __name__ == "__main__":
    main()
