"""Training on a GPU: samples per second beside bare loops, methods, exact resume, whole experiments.

``python -m benchmarks.gpu [--networks [NAME …]] [--methods [NAME …]] [--resume] [--experiment OVERRIDE …]``

Each image is random or drawn, so no data is needed. ``--networks``: samples per second of ``fit`` from the third epoch
on (validation and checkpoints included; starting and capturing take a second once, which ``set-up`` gives), of the same
``fit`` whose steps are not captured, of a bare eager loop, and of a bare loop whose forward pass, backward pass and
optimizer are captured as a CUDA graph (capturing not counted). All compute in bf16 under torch's deterministic
algorithms, as this project trains; the last column is the captured loop without these. Without a GPU everything runs
uncaptured on the CPU, which tries this program and measures nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.command.composition import build_plan, composed
from src.contracts import DataSplits, Epoch, ImageSet, Recipe, TrackedRun
from src.data.augmentation import Flip, InOrder, ShiftedCrop
from src.data.batches import evaluation_batches, training_batches
from src.display.terminal import Console
from src.experiment.making import StageMaker, prepare
from src.models.build import build_model
from src.stages.store import StageStore
from src.training import captured
from src.training.classifier import Classifier
from src.training.fit import fit, use_compute
from src.training.losses import CrossEntropy
from src.training.rates import WarmupCosine
from src.training.recipe import Compute, usable_cores

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WARM_EPOCHS = 2  # not counted: the first is slow, and the validation pass is captured in the third
AUGMENTATION = InOrder(steps=[Flip(), ShiftedCrop(pixels=4)])


@dataclass(frozen=True)
class Case:
    """A network that is timed: shape of an image, images in a batch, counted epochs of ``fit`` and of the bare loop."""

    shape: tuple[int, int, int]
    batch: int
    epochs: int
    bare_epochs: int


CASES = {
    "lenet300": Case((1, 28, 28), 256, 30, 4),
    "mnist_cnn": Case((1, 28, 28), 128, 15, 3),
    "resnet20": Case((3, 32, 32), 128, 6, 1),
    "vgg16": Case((3, 32, 32), 128, 6, 1),
}
METHODS = ("prune_magnitude", "prune_regularized", "cluster", "quantize_uniform", "distill", "quantize_aware_int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=list(CASES), help="time these networks; all if none is named")
    parser.add_argument("--methods", nargs="*", help="time the training of these methods; all if none is named")
    parser.add_argument("--model", default="resnet20", help="the network of --methods")
    parser.add_argument("--resume", nargs="*", choices=list(CASES), help="compare interrupted with whole trainings")
    parser.add_argument("--experiment", nargs="+", help="make the stages of an experiment on drawn images")
    parser.add_argument("--images", type=int, default=51_200, help="number of training images")
    parser.add_argument("--epochs", type=int, help="counted epochs of each training, in place of this program's own")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--resumed", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet()
    if arguments.resumed is not None:
        print(json.dumps(resumed(arguments.resumed, arguments.images)))
        return
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU (nothing is captured)"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "images": arguments.images}
    print(f"{name}, torch {torch.__version__}", flush=True)
    if arguments.networks is not None:
        found["networks"] = time_networks(arguments.networks or list(CASES), arguments.images, arguments.epochs)
    if arguments.resume is not None:
        found["resume"] = compare_resumed(arguments.resume or list(CASES), arguments.images)
    if arguments.methods is not None:
        names, epochs = arguments.methods or METHODS, arguments.epochs or 3
        found["methods"] = time_methods(names, arguments.model, arguments.images, epochs)
    if arguments.experiment:
        found["experiment"] = time_experiment(arguments.experiment, arguments.images)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def quiet() -> None:
    """Let libraries say nothing."""
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning", "nncf"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Listener:
    """A training's progress: keeps what is said, and may interrupt in an epoch."""

    def __init__(self, interrupt_in: int | None = None) -> None:
        self.said: list[str] = []
        self.interrupt_in = interrupt_in

    def say(self, line: str) -> None:
        self.said.append(line)

    def epoch(self, epoch: Epoch) -> None:
        if epoch.epoch == self.interrupt_in:  # before its checkpoint
            raise KeyboardInterrupt

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Nothing."""

    def start(self, epochs: int, steps: int) -> None:
        """Nothing."""

    def resumed(self, epoch: int) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


# Networks -----------------------------------------------------------------------------------------


def random_splits(shape: tuple[int, int, int], images: int) -> DataSplits:
    """Random images and labels; a tenth as many again for validation."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> ImageSet:
        pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        return ImageSet(pixels, torch.randint(0, 10, (count,), generator=generator))

    train, validation, test, calibration = part(images), part(images // 10), part(100), part(100)
    mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
    return DataSplits("random", tuple("0123456789"), train, validation, test, calibration, mean, std, AUGMENTATION, "")


def network(name: str, splits: DataSplits) -> nn.Module:
    """The network as ``model=<name>`` builds it."""
    plan = build_plan(*composed([f"model={name}", "data=shapes", "tracking=off"]))
    return build_model(plan.model.value, splits, 0)


def recipe(batch: int, epochs: int) -> Recipe:
    """The recipe of every loop: SGD with momentum, and a cosine learning rate."""
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loss = CrossEntropy(label_smoothing=0.0)
    return Recipe(
        epochs=epochs, batch_size=batch, optimizer=optimizer, rate=WarmupCosine(warmup=0.1), loss=loss, keep="best"
    )


def compute() -> Compute:
    """The project's own choice for this machine, in bf16."""
    return Compute(DEVICE, "bf16", usable_cores())


def train(name: str, splits: DataSplits, epochs: int, checkpoint: Path, listener: Listener) -> tuple[Any, nn.Module]:
    """Train a network as this project does."""
    model, batch = network(name, splits), CASES[name].batch
    fitted = fit(
        model,
        training_batches(splits, batch, seed=0, device=DEVICE),
        evaluation_batches(splits, splits.validation, batch_size=500, device=DEVICE),
        recipe(batch, epochs),
        compute(),
        seed=0,
        checkpoint=checkpoint,
        progress=listener,
    )
    return fitted, model


def ours(name: str, splits: DataSplits, epochs: int, *, capture: bool) -> tuple[float, float, list[str]]:
    """Samples per second of ``fit`` after its first epochs, seconds of all else, and what it said."""
    listener, static = Listener(), Classifier.STATIC
    Classifier.STATIC = static if capture else ()
    try:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            fitted, _ = train(name, splits, epochs + WARM_EPOCHS, Path(folder) / "training.ckpt", listener)
            wall = time.perf_counter() - started
    finally:
        Classifier.STATIC = static
    seconds = fitted.epochs[-1].finished_at - fitted.epochs[WARM_EPOCHS - 1].finished_at
    samples = len(splits.train) // CASES[name].batch * CASES[name].batch * epochs
    return samples / seconds, wall - seconds * (epochs + WARM_EPOCHS) / epochs, listener.said


def bare(name: str, splits: DataSplits, epochs: int, *, graph: bool, deterministic: bool = True) -> float:
    """Samples per second of the shortest loop, validation included; with ``graph`` its step is captured beforehand."""
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = deterministic
    use_compute(compute())
    model = network(name, splits).train().to(DEVICE).to(memory_format=torch.channels_last)
    train_batches = training_batches(splits, CASES[name].batch, seed=0, device=DEVICE)
    validation = evaluation_batches(splits, splits.validation, batch_size=500, device=DEVICE)
    mixed = partial(torch.autocast, DEVICE, torch.bfloat16, cache_enabled=not graph)
    step = bare_step(model, mixed, graph=graph, first=next(iter(train_batches)))
    samples = 0
    synchronize()
    started = time.perf_counter()
    for epoch in range(epochs):
        train_batches.set_epoch(epoch)
        for images, labels in train_batches:
            step(images, labels)
            samples += len(labels)
        hits = torch.zeros((), dtype=torch.int64, device=DEVICE)
        with torch.no_grad(), mixed():
            for images, labels in validation:
                hits += (model.eval()(images).argmax(1) == labels).sum()
        int(hits)
        model.train()
    synchronize()
    return samples / (time.perf_counter() - started)


def bare_step(
    model: nn.Module, mixed: Callable[[], Any], *, graph: bool, first: tuple[Tensor, Tensor]
) -> Callable[[Tensor, Tensor], None]:
    """A training step; with ``graph`` it copies the batch into the inputs of a captured one, and replays that."""
    optimizer = recipe(1, 1).optimizer(model.parameters())

    def step(images: Tensor, labels: Tensor) -> None:
        with mixed():
            loss = nn.functional.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    if not graph or DEVICE == "cpu":
        return step
    images, labels = first[0].contiguous(memory_format=torch.channels_last).clone(), first[1].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step(images, labels)
    torch.cuda.current_stream().wait_stream(side)
    held = torch.cuda.CUDAGraph()
    with torch.cuda.graph(held):
        step(images, labels)

    def replay(new_images: Tensor, new_labels: Tensor) -> None:
        images.copy_(new_images)
        labels.copy_(new_labels)
        held.replay()

    return replay


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def time_networks(names: Sequence[str], images: int, epochs: int | None) -> dict[str, Any]:
    """Samples per second of every loop for each network."""
    found: dict[str, Any] = {}
    print(f"{'network':<10} {'ours':>9} {'uncaptured':>10} {'eager':>9} {'captured':>9} {'ours/captured':>13} set-up s")
    for name in names:
        case = CASES[name] if epochs is None else replace(CASES[name], epochs=epochs, bare_epochs=1)
        splits = random_splits(case.shape, images)
        speed, set_up, said = ours(name, splits, case.epochs, capture=True)
        row = {
            "ours": speed,
            "ours_uncaptured": ours(name, splits, case.bare_epochs, capture=False)[0],
            "bare_eager": bare(name, splits, case.bare_epochs, graph=False),
            "bare_captured": bare(name, splits, case.bare_epochs * 2, graph=True),
            "bare_captured_not_deterministic": bare(
                name, splits, case.bare_epochs * 2, graph=True, deterministic=False
            ),
        }
        found[name] = {key: round(value) for key, value in row.items()}
        found[name] |= {"ours_to_captured": speed / row["bare_captured"], "set_up_seconds": set_up, "said": said}
        figures = [f"{row[key]:>9,.0f}" for key in ("ours", "ours_uncaptured", "bare_eager", "bare_captured")]
        print(f"{name:<10} {' '.join(figures)} {speed / row['bare_captured']:>12.2f}x {set_up:.1f}", *said, flush=True)
    return found


# Exact resume -------------------------------------------------------------------------------------

RESUMED_EPOCHS = 5


def digest(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def resumed(folder: Path, images: int) -> dict[str, Any]:
    """Resume what was interrupted in ``folder``, in a process of its own: the epoch, and the digest of the weights."""
    found = {}
    for path in sorted(folder.glob("*.ckpt")):
        fitted, model = train(
            path.stem, random_splits(CASES[path.stem].shape, images), RESUMED_EPOCHS, path, Listener()
        )
        found[path.stem] = (fitted.resumed_epoch, digest(model))
    return found


def compare_resumed(names: Sequence[str], images: int) -> dict[str, Any]:
    """Whether trainings that are interrupted, and those that are not captured, end at the weights of whole ones."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        (folder / "broken").mkdir()
        for name in names:
            splits = random_splits(CASES[name].shape, images)
            whole = digest(train(name, splits, RESUMED_EPOCHS, folder / "whole.ckpt", Listener())[1])
            (folder / "whole.ckpt").unlink()
            started, captured.WARM_UP = captured.WARM_UP, sys.maxsize
            uncaptured = digest(train(name, splits, RESUMED_EPOCHS, folder / "uncaptured.ckpt", Listener())[1])
            (folder / "uncaptured.ckpt").unlink()
            captured.WARM_UP = started
            try:
                train(name, splits, RESUMED_EPOCHS, folder / "broken" / f"{name}.ckpt", Listener(interrupt_in=3))
            except KeyboardInterrupt:
                found[name] = {"whole": whole, "not_replayed_is_equal": uncaptured == whole}
        command = [sys.executable, "-m", "benchmarks.gpu", "--resumed", str(folder / "broken"), "--images", str(images)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name, (epoch, weights) in json.loads(output.splitlines()[-1]).items():
        found[name] |= {"resumed_after_epoch": epoch, "resumed_is_equal": weights == found[name]["whole"]}
        print(f"{name:<10} {found[name]}", flush=True)
    return found


# Experiments --------------------------------------------------------------------------------------


def stages(overrides: Sequence[str], images: int, artifacts: Path) -> dict[str, Any]:
    """Make the stages of an experiment on drawn images: for each its seconds, those in epochs, and its speed."""
    drawn = ["data=shapes", f"data.train_images={round(images / 0.9)}", "data.test_images=1000", "tracking=off"]
    plan = build_plan(*composed([*overrides, *drawn, "target=onnxruntime"]))
    splits = replace(prepare(plan), augmentation=AUGMENTATION)
    terminal = io.StringIO()
    console = Console(terminal, "")
    maker = StageMaker(
        plan, splits, store=StageStore(artifacts), tracked=TrackedRun(), console=console, folder=artifacts.parent
    )
    found, started = dict[str, Any](), time.perf_counter()
    for label, made in zip(["baseline", *plan.steps], maker.make(), strict=True):
        seconds = [epoch["seconds"] for epoch in made.record["epochs"]]
        speed = len(splits.train) / sorted(seconds)[len(seconds) // 2] if seconds else None
        found[label] = {
            "epochs": len(seconds),
            "training_seconds": round(sum(seconds), 2),
            "samples_per_second": speed and round(speed),
            "validation_accuracy": made.record["validation_accuracy"],
        }
    found["seconds"] = round(time.perf_counter() - started, 1)
    found["said"] = [line for line in terminal.getvalue().splitlines() if "captured" in line]
    return found


def time_methods(names: Sequence[str], model: str, images: int, epochs: int) -> dict[str, Any]:
    """Each method after one baseline, which is trained once; a third of the baseline's epochs each."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            overrides = [f"method={name}", f"model={model}", "training=cifar", f"training.epochs={3 * epochs}"]
            try:
                found[name] = stages(overrides, images, Path(folder) / "artifacts")
            except Exception as error:  # the next methods are timed all the same
                found[name] = {"failed": f"{type(error).__name__}: {error}"}
            print(f"{name:<20} {json.dumps(found[name])}", flush=True)
    return found


def time_experiment(overrides: Sequence[str], images: int) -> dict[str, Any]:
    """The stages of an experiment, on drawn images in place of its data."""
    with tempfile.TemporaryDirectory() as folder:
        found = stages(overrides, images, Path(folder) / "artifacts")
    print(f"{' '.join(overrides)}: {json.dumps(found)}", flush=True)
    return found


if __name__ == "__main__":
    main()
