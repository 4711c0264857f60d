"""Training on more images than memory is to hold, against torchvision's ImageFolder with a DataLoader.

``python -m benchmarks.memory --folder DIR [--images 100000] [--side 128] [--epochs 3] [--workers 2] [--json FILE]``

It draws JPEG files into DIR (the same ones each time; found again if they are there), then trains a small network on
them twice, each time in a process of its own: by this project from a folder of images, which it decodes once into a
file that is mapped into memory, and by a bare loop over torchvision's ImageFolder, which decodes them anew each epoch.
Samples per second count from the first look at the folder to the end of the last epoch, so that decoding, checksums
and validation are in them; imports are not. Memory is looked at five times a second: RssAnon of ``/proc/PID/status``,
the sum over the process and its children, in which pages that they share count several times; Pss_Anon of
``/proc/PID/smaps_rollup``, in which they count once; and RssAnon of the process alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn

from src.contracts import Recipe, TrainingProgress
from src.data.batches import evaluation_batches, training_batches
from src.data.image_folder import ImageFolder
from src.data.mapped import LIMIT
from src.metrics.machine import machine
from src.training.fit import fit, use_compute
from src.training.losses import CrossEntropy
from src.training.rates import Constant
from src.training.recipe import Compute

CLASSES, BATCH, VALIDATED = 10, 128, 500
SHARES = {"train": 0.9, "val": 0.05, "test": 0.05}
MEAN = STD = (0.5, 0.5, 0.5)
HELD = 0.25  # share of the images' bytes that may be held in memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the images and of the cache")
    parser.add_argument("--images", type=int, default=100_000, help="number of images (%(default)s)")
    parser.add_argument("--side", type=int, default=128, help="height and width (%(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode, and threads (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--train", choices=TRAININGS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    root = given.folder / f"{given.images}_{given.side}"
    if given.train:
        torch.set_num_threads(given.workers)
        print(json.dumps(TRAININGS[given.train](root, given.side, given.epochs, given.workers)))
        return
    draw(root, given.images, given.side, given.workers)
    found: dict[str, Any] = {"machine": machine(), "torch": torch.__version__, **vars(given)}
    found = {key: value for key, value in found.items() if key not in ("folder", "json", "train")}
    for name in TRAININGS:
        found[name] = watched(given, name)
        print(name, found[name], flush=True)
    found["ratio"] = round(found["project"]["samples_per_second"] / found["torchvision"]["samples_per_second"], 2)
    print(f"this project / torchvision: {found['ratio']}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def watched(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run a training in a process of its own with an empty cache, and watch its memory."""
    with tempfile.TemporaryDirectory(dir=given.folder) as cache:
        held = int(HELD * given.images * given.side**2 * 3)
        environment = {**os.environ, "XDG_CACHE_HOME": cache, LIMIT: str(held), "OMP_NUM_THREADS": str(given.workers)}
        command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--train", name]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        peaks = {"rss_anon_gib": 0, "pss_anon_gib": 0, "rss_anon_of_the_process_gib": 0}
        while process.poll() is None:
            for kind, size in anonymous(process.pid).items():
                peaks[kind] = max(peaks[kind], size)
            time.sleep(0.2)
        assert process.stdout is not None
        if process.returncode:
            sys.exit(f"{name} ended with {process.returncode}")
        figures: dict[str, Any] = json.loads(process.stdout.read().splitlines()[-1])
    return {**figures, **{kind: round(size / 2**30, 2) for kind, size in peaks.items()}}


def anonymous(pid: int) -> dict[str, int]:
    """Bytes of anonymous memory of a process and its children together, and of the process alone."""
    found = {"rss_anon_gib": 0, "pss_anon_gib": 0, "rss_anon_of_the_process_gib": 0}
    try:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return found
    for number in family:
        resident = _bytes_in(Path(f"/proc/{number}/status"), "RssAnon")
        found["rss_anon_gib"] += resident
        found["pss_anon_gib"] += _bytes_in(Path(f"/proc/{number}/smaps_rollup"), "Pss_Anon")
        if number == pid:
            found["rss_anon_of_the_process_gib"] = resident
    return found


def _bytes_in(path: Path, key: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:  # the process ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


# Images -------------------------------------------------------------------------------------------


def draw(root: Path, images: int, side: int, processes: int) -> None:
    """Draw the files, unless they are there: blurred noise whose colour follows from the class."""
    done = root / "done"
    if done.exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    jobs: list[tuple[Path, int, int, int]] = []
    for part, share in SHARES.items():
        for label in range(CLASSES):
            folder = root / part / f"class_{label}"
            folder.mkdir(parents=True)
            jobs.append((folder, round(images * share) // CLASSES, label, len(jobs)))
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(partial(_draw_class, side=side), jobs))
    done.touch()


def _draw_class(job: tuple[Path, int, int, int], *, side: int) -> None:
    folder, count, label, seed = job
    chance = np.random.default_rng(seed)
    tint = np.random.default_rng(label).integers(0, 128, 3)
    for at in range(count):
        coarse = (chance.integers(0, 128, (side // 8, side // 8, 3)) + tint).astype(np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        image.save(folder / f"{at:06d}.jpg", quality=90)


# Trainings ----------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=4, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


class Silent(TrainingProgress):
    """Shows nothing."""

    def start(self, epochs: int, steps: int) -> None: ...
    def resumed(self, epoch: int) -> None: ...
    def step(self, epoch: int, step: int, loss: float) -> None: ...
    def epoch(self, epoch: Any) -> None: ...
    def say(self, line: str) -> None: ...
    def stop(self) -> None: ...


def project(root: Path, side: int, epochs: int, workers: int) -> dict[str, Any]:
    """This project: a folder of images, and ``fit`` as a run calls it."""
    compute = Compute("cpu", "float32", workers)
    use_compute(compute)
    started = time.perf_counter()
    splits = ImageFolder(
        root=str(root),
        test_share=0.1,
        side=side,
        channels=3,
        sha256=None,
        validation_share=0.1,
        calibration_images=200,
        split_seed=0,
        mean=None,
        std=None,
        augmentation=None,
    ).load()
    loaded = time.perf_counter()
    recipe = Recipe(
        epochs=epochs,
        batch_size=BATCH,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        rate=Constant(),
        loss=CrossEntropy(label_smoothing=0.0),
        keep="last",
    )
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(
            network(),
            training_batches(splits, BATCH, seed=0),
            evaluation_batches(splits, splits.validation, batch_size=VALIDATED),
            recipe,
            compute,
            seed=0,
            checkpoint=Path(folder) / "training.ckpt",
            progress=Silent(),
        )
    accuracies = [epoch.validation_accuracy for epoch in fitted.epochs]
    return _figures(started, loaded, epochs * len(splits.train), accuracies, [each.seconds for each in fitted.epochs])


def torchvision(root: Path, side: int, epochs: int, workers: int) -> dict[str, Any]:
    """A bare loop over torchvision's ImageFolder and a DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder as Folder

    started = time.perf_counter()
    transform = transforms.Compose(
        [transforms.Resize((side, side)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    train = DataLoader(
        Folder(str(root / "train"), transform),
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )
    validation = DataLoader(Folder(str(root / "val"), transform), VALIDATED, num_workers=workers)
    loaded = time.perf_counter()
    model = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    accuracies, seconds = [], []
    for _ in range(epochs):
        begun = time.perf_counter()
        for images, labels in train:
            loss = nn.functional.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            hits = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in validation)
        accuracies.append(hits / len(validation.dataset))  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - begun)
    return _figures(started, loaded, epochs * len(train.dataset), accuracies, seconds)  # type: ignore[arg-type]


def _figures(
    started: float, loaded: float, samples: int, accuracies: Sequence[float], seconds: Sequence[float]
) -> dict[str, Any]:
    total = time.perf_counter() - started
    return {
        "samples_per_second": round(samples / total, 1),
        "seconds": round(total, 1),
        "seconds_before_the_first_epoch": round(loaded - started, 1),
        "epoch_seconds": [round(each, 1) for each in seconds],
        "validation_accuracy": [round(each, 4) for each in accuracies],
    }


TRAININGS = {"project": project, "torchvision": torchvision}


if __name__ == "__main__":
    main()
