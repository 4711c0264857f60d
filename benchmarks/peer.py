"""The lines of TensorFlow's Model Optimization toolkit on an MNIST CNN of 1.13 M parameters, and this project's.

``python -m benchmarks.peer [--weights FILE] [--json FILE] [key=value ...]``

Each line is one call of the command, whose baseline is trained once (or read from ``--weights``); what is printed are
rows of its ``results.json``: accuracy on the 10,000 test images by the exported file, its bytes, and gzipped. The
toolkit's figures were taken on a machine of the same kind and are written down here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

# accuracy in %, bytes of the file, bytes gzipped
PEER = {
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
    parser.add_argument("--weights", type=Path, help="of a trained baseline")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="handed on to the command")
    arguments = parser.parse_args()
    rows = {}
    for line, method in METHODS.items():
        rows[line] = run([*method, *arguments.overrides], arguments.weights)
        print(spoken(line, rows[line]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"peer": PEER, "rows": rows}, indent=1) + "\n")


def run(overrides: list[str], weights: Path | None) -> dict:
    """The last row of one run."""
    with tempfile.TemporaryDirectory() as folder:
        given = ["data=mnist", "model=mnist_cnn", "training=mnist", "tracking=off", f"hydra.run.dir={folder}"]
        given += [f"model.weights={weights.absolute()}"] if weights else []
        subprocess.run([sys.executable, "-m", "src.run", *given, *overrides], check=True, stdout=subprocess.DEVNULL)
        row: dict = json.loads((Path(folder) / "results.json").read_text())["rows"][-1]
    return row


def spoken(line: str, row: dict) -> str:
    accuracy, size, zipped = PEER[line]
    ours = f"{100 * row['accuracy']:.2f} %, {row['size_bytes']:,} B, gzip {row['size_gzip_bytes']:,} B"
    theirs = f"{accuracy:.2f} %" + (f", {size:,} B" if size else "") + (f", gzip {zipped:,} B" if zipped else "")
    return f"{line:<26} {ours:<46} TF-MOT: {theirs}"


if __name__ == "__main__":
    main()
