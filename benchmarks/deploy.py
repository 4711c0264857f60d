"""INT8 files against float files, and against what each runtime's own quantizer makes of the same float model.

``python -m benchmarks.deploy [--json FILE] [--networks mnist_cnn,…] [--epochs 2] [--artifacts DIR] [run-override ...]``

Each network is trained by ``python -m src.run`` for few epochs (and found again later), quantized, and exported for
ONNX Runtime, OpenVINO and TFLite. The peers quantize the same float file: ONNX Runtime's ``quantize_static`` (per
channel, Q/DQ), NNCF on the OpenVINO model, ai-edge-quantizer (``static_wi8_ai8``), with the same calibration images.
The three files of a runtime are timed in turns, one thread; accuracies are on the whole test set.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from src.contracts import DataSplits
from src.data.batches import calibration_batches, evaluation_batches
from src.metrics.accuracy import file_accuracy
from src.metrics.machine import machine
from src.metrics.size import parts_of, size_bytes

NETWORKS = {
    "mnist_cnn": ("mnist", "mnist"),
    "cifar_cnn": ("cifar10", "cifar"),
    "resnet20": ("cifar10", "cifar"),
    "mobilenetv2": ("cifar10", "cifar"),
    "vgg16": ("cifar10", "cifar"),
}
TARGETS = ("onnxruntime", "openvino", "tflite")
BATCH = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each network's training")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of counted calls for each file")
    parser.add_argument("--artifacts", default="artifacts", help="folder in which trained networks are found again")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "epochs": given.epochs, "rows": []}
    for network in given.networks.split(","):
        for row in compare(network, given.epochs, given.seconds, given.artifacts, given.overrides):
            figures["rows"].append(row)
            print(as_line(row), flush=True)
            if given.json:
                given.json.write_text(json.dumps(figures, indent=1) + "\n")


def compare(network: str, epochs: int, seconds: float, artifacts: str, overrides: list[str]) -> list[dict[str, Any]]:
    """A row for each runtime: the float file, this project's INT8 file and the peer's."""
    from src.command.composition import build, build_plan, composed
    from src.metrics.timing import Clock, speedup, time_files

    data, training = NETWORKS[network]
    chosen = [f"data={data}", f"model={network}", f"training={training}", f"training.epochs={epochs}"]
    chosen += ["method=quantize_int8", f"target=[{','.join(TARGETS)}]", *overrides]
    splits = build_plan(*composed(chosen)).data.value.load()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run(*chosen, f"hydra.run.dir={folder}", f"artifacts={artifacts}", "tracking=off")
        resolved, _ = composed(chosen)
        for name in TARGETS:
            target = build(resolved["target"], name)
            float_file, ours = (
                Path(folder) / f"{variant}.{name}.{target.ending}" for variant in ("baseline", "quantize_int8")
            )
            peer = Path(folder) / f"peer.{name}.{target.ending}"
            PEERS[name](float_file, peer, splits)
            files = [float_file, ours, peer]
            clock = Clock(threads=1, seconds=seconds, rounds=20, largest_batch=1)
            image = calibration(splits)[:1]
            timings = time_files([(target, file) for file in files], image, clock)
            sizes = [size_bytes(parts_of(target, file)) for file in files]
            batches = evaluation_batches(splits, splits.test, batch_size=BATCH)
            hits = [file_accuracy(target.load(file), batches, len(splits.classes)).overall for file in files]
            rows.append(
                {
                    "network": network,
                    "target": name,
                    "size_of_float": sizes[1] / sizes[0],
                    "size_of_peer": sizes[1] / sizes[2],
                    "size_bytes": sizes[1],
                    "latency_ms": [timing.latency_ms_p50 for timing in timings],
                    "faster_than_float": asdict(speedup(timings[1], timings[0])),
                    "time_of_peer": asdict(speedup(timings[2], timings[1])),
                    "accuracy": hits,
                }
            )
    return rows


def as_line(row: dict[str, Any]) -> str:
    """A row as a line for a person."""
    faster, peer = row["faster_than_float"], row["time_of_peer"]
    times = " / ".join(f"{took:.3f}" for took in row["latency_ms"])
    hits = " / ".join(f"{100 * hit:.2f}" for hit in row["accuracy"])
    return (
        f"{row['network']:<12} {row['target']:<12} {row['size_bytes']:>10,} bytes, {row['size_of_float']:.3f}x float, "
        f"{row['size_of_peer']:.3f}x the peer;  float / ours / peer {times} ms;  {faster['value']:.2f}x "
        f"({faster['low']:.2f} to {faster['high']:.2f}) faster than float;  {peer['value']:.2f}x "
        f"({peer['low']:.2f} to {peer['high']:.2f}) the peer's time;  {hits} %"
    )


def run(*arguments: str) -> None:
    """Run ``python -m src.run``; raise RuntimeError if it fails."""
    done = subprocess.run([sys.executable, "-m", "src.run", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr}")


def calibration(splits: DataSplits) -> np.ndarray:
    """The calibration images ``[n, c, h, w]``, float32, normalized."""
    return np.concatenate([images.numpy() for images, _ in calibration_batches(splits)])


# Peers --------------------------------------------------------------------------------------------


def by_onnxruntime(source: Path, to: Path, splits: DataSplits) -> None:
    """ONNX Runtime's own static quantization, Q/DQ, int8 weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images = iter(calibration(splits))

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            image = next(images, None)
            return None if image is None else {"image": image[None]}

    prepared = to.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared))
    quantize_static(
        str(prepared),
        str(to),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def by_nncf(source: Path, to: Path, splits: DataSplits) -> None:
    """NNCF on the OpenVINO model, its defaults."""
    import nncf
    import openvino as ov

    images = list(calibration(splits)[:, None])
    quantized = nncf.quantize(ov.Core().read_model(str(source)), nncf.Dataset(images), subset_size=len(images))
    ov.save_model(quantized, str(to), compress_to_fp16=False)


def by_ai_edge(source: Path, to: Path, splits: DataSplits) -> None:
    """ai-edge-quantizer: int8 weights per channel, int8 activations."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    interpreter = Interpreter(str(source))
    (key, runner), *_ = [(key, interpreter.get_signature_runner(key)) for key in interpreter.get_signature_list()]
    name, details = next(iter(runner.get_input_details().items()))
    images = calibration(splits)
    if tuple(details["shape"][1:]) != images.shape[1:]:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    made = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    calibrated = made.calibrate({key: [{name: image[None]} for image in images]})
    made.quantize(calibrated).export_model(str(to), overwrite=True)


PEERS: dict[str, Callable[[Path, Path, DataSplits], None]] = {
    "onnxruntime": by_onnxruntime,
    "openvino": by_nncf,
    "tflite": by_ai_edge,
}


if __name__ == "__main__":
    main()
