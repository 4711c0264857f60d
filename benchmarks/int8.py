"""INT8 files of other people's networks, beside what each runtime's own quantizer makes of the same float file.

``python -m benchmarks.int8 [--networks …] [--side 96] [--targets onnxruntime,openvino,tflite] [--results FILE]
[run-override ...]``

Each network is trained on drawn shapes (and found again later) and quantized by ``method=quantize_int8``. The peers are
those of ``benchmarks.deploy``: ONNX Runtime's ``quantize_static``, NNCF on OpenVINO's model, ai-edge-quantizer. The
float file, ours and the peer's are timed in turns, one thread. A JSON line for each network and runtime is appended to
the results as it comes; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deploy import BATCH, PEERS, TARGETS, calibration, run
from benchmarks.networks import NETWORKS, SETTINGS
from src.contracts import DataSplits, Target, first_line
from src.data.batches import evaluation_batches
from src.metrics.graph import integer_share
from src.metrics.machine import machine
from src.metrics.size import parts_of, size_bytes

EIGHT = (
    *("mobilenet_v2", "mobilenetv3_small_050", "efficientnet_b0", "resnet18"),
    *("shufflenet_v2_x0_5", "regnetx_002", "convnext_atto", "deit_tiny"),
)
FILES = ("float", "ours", "peer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default=",".join(EIGHT))
    parser.add_argument("--side", type=int, default=96, help="height and width of the images")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of counted calls for each file")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where trained networks are kept")
    parser.add_argument("--results", type=Path, default=Path("docs/measured/int8.jsonl"))
    parser.add_argument("overrides", nargs="*", help="more settings of each command, e.g. training.epochs=2")
    given = parser.parse_args()
    lines = given.results.read_text().splitlines() if given.results.exists() else []
    made = {(row["network"], row["target"]) for row in map(json.loads, lines)}
    for network in given.networks.split(","):
        left = [target for target in given.targets.split(",") if (network, target) not in made]
        if not left:
            continue
        chosen = [each for each in SETTINGS if not each.startswith(("target=", "data.side="))]
        chosen += [*NETWORKS[network], f"data.side={given.side}", f"target=[{','.join(left)}]"]
        chosen += ["method=quantize_int8", *given.overrides]
        for row in compare(network, left, chosen, given.artifacts, given.seconds):
            with given.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(as_line(row), flush=True)


def compare(
    network: str, targets: Sequence[str], chosen: list[str], artifacts: Path, seconds: float
) -> list[dict[str, Any]]:
    """A row for each runtime.

    Args:
        network: Name in ``benchmarks.networks``.
        targets: Names of the targets.
        chosen: Settings of the command that trains, quantizes and exports.
        artifacts: Folder in which trained networks are kept.
        seconds: Duration of the counted calls of each file.
    """
    from src.command.composition import build, build_plan, composed

    resolved, choices = composed(chosen)
    splits = build_plan(resolved, choices).data.value.load()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run(*chosen, f"hydra.run.dir={folder}", f"artifacts={artifacts}")
        for name in targets:
            target = build(resolved["target"], name)
            names = (f"{variant}.{name}.{target.ending}" for variant in ("baseline", "quantize_int8", "peer"))
            files = [Path(folder) / each for each in names]
            reason = ""
            try:
                PEERS[name](files[0], files[2], splits)
                target.load(files[2])(calibration(splits)[:1])
            except Exception as error:  # a peer that fails is a result
                reason, files = first_line(error), files[:2]
            figures = compared(target, files, splits, seconds)
            rows.append({"network": network, "target": name, **figures, "peer_failed": reason, "machine": machine()})
    return rows


def compared(target: Target, files: Sequence[Path], splits: DataSplits, seconds: float) -> dict[str, Any]:
    """Bytes, share of integers, times and agreement with the float file of each file; the float file comes first."""
    from src.metrics.timing import Clock, speedup, time_files

    clock = Clock(threads=1, seconds=seconds, rounds=20, largest_batch=1)
    timings = time_files([(target, file) for file in files], calibration(splits)[:1], clock)
    given = [
        (images.numpy(), labels.numpy()) for images, labels in evaluation_batches(splits, splits.test, batch_size=BATCH)
    ]
    labels = np.concatenate([each for _, each in given])
    sessions = [target.load(file) for file in files]
    classes = [np.concatenate([session(images).argmax(1) for images, _ in given]) for session in sessions]
    columns: dict[str, list[Any]] = {
        "size_bytes": [size_bytes(parts_of(target, file)) for file in files],
        "integer_share": [integer_share(target.graph(file)) for file in files],
        "latency_ms": [timing.latency_ms_p50 for timing in timings],
        "agreement": [float((each == classes[0]).mean()) for each in classes],
        "accuracy": [float((each == labels).mean()) for each in classes],
    }
    figures: dict[str, Any] = {
        name: dict(zip(FILES[: len(files)], values, strict=True)) for name, values in columns.items()
    }
    figures["faster_than_float"] = asdict(speedup(timings[1], timings[0]))
    if len(files) == len(FILES):
        figures["time_of_peer"] = asdict(speedup(timings[2], timings[1]))
        figures["peer_faster_than_float"] = asdict(speedup(timings[2], timings[0]))
        figures["size_of_peer"] = columns["size_bytes"][1] / columns["size_bytes"][2]
    return figures


def as_line(row: dict[str, Any]) -> str:
    """A row as a line for a person."""
    parts = [f"{row['network']:<22} {row['target']:<12}"]
    for name in row["size_bytes"]:
        parts.append(
            f"{name} {row['size_bytes'][name]:,} B, {row['latency_ms'][name]:.3f} ms, "
            f"{row['integer_share'][name]:.1%} integer, agrees {row['agreement'][name]:.1%};"
        )
    if "time_of_peer" in row:
        ratio = row["time_of_peer"]
        parts.append(f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f}) the peer's time")
    return " ".join([*parts, row["peer_failed"]])


if __name__ == "__main__":
    main()
