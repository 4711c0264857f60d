"""Packed files against NNCodec on the same weights: bytes at equal accuracy, and speed.

``python -m benchmarks.coding model.onnx [--peer PYTHON] [--qp -38,-32,-26] [--prices 0.02,0.04] [--json FILE]``

``model.onnx`` is an exported MNIST network of this project (float32), e.g. of ``method=prune_magnitude``. Every
accuracy is that of the file on disk: unpacked, run by ONNX Runtime, on the whole test set, which lies in ``DNNC_DATA``.
Nothing is trained here. ``PYTHON`` is the interpreter of a virtual environment that holds NNCodec 2.1.3.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.coding.container import pack, read, tensor_of, unpack
from src.coding.graph import from_onnx
from src.device.packed import Tensor
from src.device.packed_graph import card_of, onnx_bytes

START, ROUNDS = 40, 30  # values that a layer starts with, and rounds in which they are chosen
BIAS_FINER = 4  # a bias's step is this many times finer than what the price makes of the weights before it


class Accuracy:
    """Measures packed files on the test set of MNIST.

    Args:
        root: Folder that holds ``MNIST/raw``.
    """

    def __init__(self, root: Path) -> None:
        raw = root / "MNIST" / "raw"
        self.images = _idx(raw / "t10k-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
        self.labels = _idx(raw / "t10k-labels-idx1-ubyte", 8)

    def of(self, file: Path) -> float:
        """Share of the test set that the file classifies right, in percent."""
        import onnxruntime

        packed = read(file)
        card = card_of(packed)
        pixels = (self.images.astype(np.float32) / 255 - np.float32(card["mean"][0])) / np.float32(card["std"][0])
        session = onnxruntime.InferenceSession(onnx_bytes(packed), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        found = [session.run(None, {name: pixels[at : at + 500]})[0].argmax(1) for at in range(0, len(pixels), 500)]
        return 100 * float((np.concatenate(found) == self.labels).mean())


def _idx(path: Path, header: int) -> np.ndarray:
    data = path.read_bytes() if path.is_file() else gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())
    return np.frombuffer(data, np.uint8, offset=header)


def quantized(tensors: Mapping[str, Tensor], price: float) -> dict[str, Tensor]:
    """Give each layer few shared values, chosen for the bits that they take.

    Each weight gets the value ``c`` with the least ``(w - c)^2 + price * power * bits(c)``, where ``power`` is the mean
    square of all weights that are not zero; each value is then the mean of its weights, and ``bits`` follow
    from how many there are (Chou, Lookabaugh and Gray 1989, entropy-constrained quantization). Zero stays zero.

    Args:
        tensors: float32 tensors; those of one dimension are rounded to multiples of a step.
        price: Price of a bit.
    """
    weights = [
        t.bits.view(np.float32).astype(np.float64) for t in tensors.values() if t.dtype == "F32" and len(t.shape) > 1
    ]
    power = float(np.mean(np.concatenate([each[each != 0] for each in weights]) ** 2))
    found, step = {}, np.float32(0)
    for name, tensor in tensors.items():
        values = tensor.bits.view(np.float32).astype(np.float64) if tensor.dtype == "F32" else None
        if values is None or not values.any():
            found[name] = tensor
            continue
        if len(tensor.shape) > 1:
            step = np.float32(np.sqrt(6 * price * power) / BIAS_FINER)
            rounded = np.zeros(values.shape, np.float32)
            rounded[values != 0] = _shared(values[values != 0], len(values), price * power)
        else:
            rounded = np.rint(values / step).astype(np.float32) * step + np.float32(0)
        found[name] = tensor_of(rounded.reshape(tensor.shape))
    return found


def _shared(weights: np.ndarray, total: int, price: float) -> np.ndarray:
    """Entropy-constrained values of weights; ``total`` counts the zeros of the layer, too."""
    centroids = np.concatenate([[0.0], np.quantile(weights, (np.arange(START) + 0.5) / START)])
    counts = np.concatenate([[total - len(weights) + 1.0], np.full(START, len(weights) / START)])
    for _ in range(ROUNDS):
        bits = -np.log2(counts / counts.sum())
        cost = (weights[:, None] - centroids) ** 2 + price * bits
        nearest = cost.argmin(1)
        used = np.bincount(nearest, minlength=len(centroids)).astype(np.float64)
        sums = np.bincount(nearest, weights, minlength=len(centroids))
        keep = used > 0
        keep[0] = True
        centroids = np.where(used > 0, sums / np.maximum(used, 1), centroids)[keep]
        centroids[0] = 0.0
        used[0] += total - len(weights)
        counts = np.maximum(used, 1)[keep]
    bits = -np.log2(counts / counts.sum())
    return centroids.astype(np.float32)[((weights[:, None] - centroids) ** 2 + price * bits).argmin(1)]


def ours(model: Path, prices: list[float], accuracy: Accuracy, folder: Path, exact: str) -> list[dict]:
    """A line for each price: bytes by each profile, accuracy of the smallest file."""
    tensors, graph, card = from_onnx(model)
    found = []
    for price in prices:
        rounded = quantized(tensors, price)
        sizes = {}
        for profile in ("small", "fast", "huffman"):
            file = folder / f"{price}.{profile}.dnnc"
            file.write_bytes(pack(rounded, profile, card=card, graph=graph, exact=exact))
            sizes[profile] = file.stat().st_size
        found.append({"price": price, **sizes, "accuracy": accuracy.of(folder / f"{price}.small.dnnc")})
    return found


def peer(python: str, model: Path, qps: list[int], accuracy: Accuracy, folder: Path) -> list[dict]:
    """A line for each quantization parameter of NNCodec."""
    tensors, graph, card = from_onnx(model)
    floats = {name: tensor for name, tensor in tensors.items() if tensor.dtype == "F32"}
    weights: dict[str, Any] = {n: t.bits.view(np.float32).reshape(t.shape) for n, t in floats.items()}
    np.savez(folder / "weights.npz", **weights)
    found = []
    script = Path(__file__).with_name("nncodec_peer.py")
    for qp in qps:
        command = [python, str(script), str(folder / "weights.npz"), str(qp), str(folder)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
        decoded = dict(np.load(folder / f"{qp}.npz"))
        arrays = {name: decoded[name].astype(np.float32).reshape(tensor.shape) for name, tensor in floats.items()}
        back = {**tensors, **{name: tensor_of(array) for name, array in arrays.items()}}
        file = folder / f"{qp}.dnnc"
        file.write_bytes(pack(back, "fast", card=card, graph=graph))
        found.append({"qp": qp, **json.loads(said), "accuracy": accuracy.of(file)})
    return found


def speed(model: Path) -> dict[str, dict[str, float]]:
    """Megabytes of float32 weights a second of each profile, both ways; the second of two calls."""
    tensors, _, _ = from_onnx(model)
    size = sum(tensor.bits.nbytes for tensor in tensors.values()) / 1e6
    rounded = quantized(tensors, 0.01)
    found = {}
    for profile in ("fast", "board", "small"):
        for _ in range(2):
            start = time.perf_counter()
            content = pack(rounded, profile)
            packed = time.perf_counter()
            unpack(content)
            found[profile] = {"encode": size / (packed - start), "decode": size / (time.perf_counter() - packed)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer", help="Python of a virtual environment with NNCodec")
    parser.add_argument("--qp", default="-38,-34,-30,-26,-22,-18,-14")
    parser.add_argument("--prices", default="0.003,0.006,0.012,0.024,0.048")
    parser.add_argument("--exact", default="bits", help="bits, or outputs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    accuracy = Accuracy(Path(os.environ.get("DNNC_DATA", "data")))
    with tempfile.TemporaryDirectory() as folder:
        prices = [float(price) for price in arguments.prices.split(",")]
        figures: dict = {"ours": ours(arguments.model, prices, accuracy, Path(folder), arguments.exact)}
        if arguments.peer:
            qps = [int(qp) for qp in arguments.qp.split(",")]
            figures["nncodec"] = peer(arguments.peer, arguments.model, qps, accuracy, Path(folder))
    figures["megabytes_per_second"] = speed(arguments.model)
    for line in [*figures["ours"], *figures.get("nncodec", []), figures["megabytes_per_second"]]:
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
