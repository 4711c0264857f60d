"""Training speed of this project against a bare PyTorch loop and against a DataLoader, in one run.

``python -m benchmarks.training [--model lenet300|mnist_cnn] [--epochs N] [--json FILE]``

Samples per second over whole epochs, validation included in all three. The project's figure is for its own ``fit`` as a
user runs it: progress bar on, log and checkpoints written. The bare loop takes the same batches from the same tensors
in memory and does nothing else; the DataLoader reads torchvision's MNIST with two workers and the same augmentation by
torchvision's transforms. Figures differ between machines; compare their ratios.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import statistics
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import DataSplits, Recipe
from src.data.augmentation import ShiftedCrop
from src.data.batches import evaluation_batches, training_batches
from src.data.images import data_root
from src.data.torchvision_sets import TorchvisionData
from src.display.terminal import Bar
from src.metrics.machine import machine
from src.models.build import build_model
from src.models.lenet import LeNet300
from src.models.small_cnn import SmallCNN
from src.training.fit import fit, use_compute
from src.training.losses import CrossEntropy
from src.training.rates import WarmupCosine
from src.training.recipe import Compute

BATCH = {"lenet300": 256, "mnist_cnn": 128}
BUILDERS: dict[str, Any] = {
    "lenet300": LeNet300,
    "mnist_cnn": partial(SmallCNN, blocks=[[32, 64]], dense=120, padding=0, batch_norm=False, dropout=0.25),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(BATCH), action="append")
    parser.add_argument("--epochs", type=int, default=3, help="counted epochs of each loop")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each loop; medians are printed")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    splits = TorchvisionData(
        dataset="MNIST",
        root="data",
        sha256=None,
        validation_share=0.1,
        calibration_images=100,
        split_seed=0,
        mean=[0.1307],
        std=[0.3081],
        augmentation=ShiftedCrop(pixels=1),
    ).load()
    figures = {name: measure(name, splits, arguments.epochs, arguments.rounds) for name in arguments.model or BATCH}
    print(f"\n{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; samples/s, medians")
    for name, kinds in figures.items():
        for kind, speed in kinds.items():
            print(f"{name:<10} {kind:<24} {speed:>9,.0f}")
        for line, ratio in ratios(kinds).items():
            print(f"{name:<10} {line:<44} {ratio:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "samples_per_second": figures}, indent=1) + "\n")


def ratios(kinds: dict[str, float]) -> dict[str, float]:
    """The ratios that docs/measured.md reports, from the samples per second of each loop."""
    found = {"this project / bare loop, float32": kinds["project float32"] / kinds["bare float32"]}
    if "bare bf16" in kinds:
        found["this project / bare loop, bf16"] = kinds["project bf16"] / kinds["bare bf16"]
        found["this project bf16 / bare loop float32"] = kinds["project bf16"] / kinds["bare float32"]
    best = kinds.get("project bf16", kinds["project float32"])
    found["this project (default) / DataLoader float32"] = best / kinds["DataLoader float32"]
    found["this project float32 / DataLoader float32"] = kinds["project float32"] / kinds["DataLoader float32"]
    return found


def measure(name: str, splits: DataSplits, epochs: int, rounds: int) -> dict[str, float]:
    """Median samples per second of each loop; the loops run in turns, so that a drifting machine favours none."""
    native = Compute.resolve("cpu", "auto", "auto")
    precisions = ["float32", *(["bf16"] if native.precision == "bf16" else [])]
    batch_size = BATCH[name]
    kinds: dict[str, Callable[[], float]] = {}
    for precision in precisions:
        compute = Compute("cpu", precision, native.threads)
        kinds[f"bare {precision}"] = partial(
            bare, name, splits, training_batches(splits, batch_size, seed=0), compute, epochs
        )
        kinds[f"project {precision}"] = partial(project, name, splits, compute, epochs)
    loader = data_loader(batch_size)
    kinds["DataLoader float32"] = partial(bare, name, splits, loader, Compute("cpu", "float32", native.threads), 1)
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, run in kinds.items():
            speeds[kind].append(run())
            print(f"{name} {kind}: {speeds[kind][-1]:,.0f} samples/s", file=sys.stderr, flush=True)
    return {kind: statistics.median(values) for kind, values in speeds.items()}


def data_loader(batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
    """Torchvision's own data set, transforms and two workers, over as many images as the training split has."""
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms
    from torchvision.datasets import MNIST

    steps = [
        transforms.RandomCrop(28, padding=1, padding_mode="reflect"),
        transforms.ToTensor(),
        transforms.Normalize([0.1307], [0.3081]),
    ]
    data = Subset(MNIST(data_root("data"), train=True, transform=transforms.Compose(steps)), range(54_000))
    return DataLoader(data, batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)


def recipe(batch_size: int, epochs: int) -> Recipe:
    """The recipe of every loop: SGD with momentum, and a cosine learning rate."""
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
        rate=WarmupCosine(warmup=0.1),
        loss=CrossEntropy(label_smoothing=0.0),
        keep="best",
    )


def bare(name: str, splits: DataSplits, train: Any, compute: Compute, epochs: int) -> float:
    """Samples per second of the shortest training loop: forward, loss, backward, step; one validation each epoch."""
    use_compute(compute)
    model: nn.Module = build_model(BUILDERS[name], splits, 0).train()
    chosen = recipe(BATCH[name], epochs)
    optimizer = chosen.optimizer(model.parameters())
    validation = evaluation_batches(splits, splits.validation, batch_size=500)
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=compute.precision == "bf16")
    samples = 0
    started = time.perf_counter()
    for _ in range(epochs):
        for images, labels in train:
            with mixed:
                loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            samples += len(labels)
        hits = 0
        with torch.no_grad(), mixed:
            for images, labels in validation:
                hits += int((model.eval()(images).argmax(1) == labels).sum())
        model.train()
    return samples / (time.perf_counter() - started)


def project(name: str, splits: DataSplits, compute: Compute, epochs: int) -> float:
    """Samples per second of the training that ``python -m src.run`` does for a baseline."""
    model = build_model(BUILDERS[name], splits, 0)
    train = training_batches(splits, BATCH[name], seed=0)
    with tempfile.TemporaryDirectory() as folder, _Terminal() as terminal:
        started = time.perf_counter()
        fitted = fit(
            model,
            train,
            evaluation_batches(splits, splits.validation, batch_size=500),
            recipe(BATCH[name], epochs),
            compute,
            seed=0,
            checkpoint=Path(folder) / "training.ckpt",
            progress=Bar(terminal, name, lambda epoch: None),
        )
        seconds = time.perf_counter() - started
    return len(fitted.epochs) * len(train) * BATCH[name] / seconds


class _Terminal:
    """A pseudo-terminal, so that the progress bar draws as it does for a person."""

    def __enter__(self) -> Any:
        import threading

        self.main, child = os.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # without a size nothing is drawn
        self.stream = os.fdopen(child, "w", buffering=1)
        self.reader = threading.Thread(target=self._drain, daemon=True)
        self.reader.start()
        return self.stream

    def _drain(self) -> None:
        try:
            while os.read(self.main, 65536):
                continue
        except OSError:
            return

    def __exit__(self, *exception: object) -> None:
        self.stream.close()
        self.reader.join(1)


if __name__ == "__main__":
    main()
