"""One training by two processes on the CPU (gloo)."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from src.contracts import DataSplits, InputError, Recipe, StepCallback
from src.data.batches import TensorBatches, evaluation_batches
from src.training.fit import Fitted, fit
from src.training.losses import CrossEntropy
from src.training.ranks import Share, started
from src.training.rates import WarmupCosine
from src.training.recipe import Compute
from tests.commands import Commands
from tests.training.test_fit import Listener, weights

WORKING = pytest.mark.slow  # a process of a training needs ten seconds to start


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


class HalfMask(StepCallback):
    """Keeps the half of the first layer's weights that had the largest gradients in the first step."""

    def __init__(self) -> None:
        self.mask: torch.Tensor | None = None

    def after_backward(self, model: Any) -> None:
        if self.mask is None:
            gradient = model[1].weight.grad.abs()
            self.mask = gradient > gradient.median()

    def after_step(self, model: Any, progress: float) -> None:
        with torch.no_grad():
            model[1].weight.mul_(self.mask)


class Drifting(StepCallback):
    """Adds to the weights what no seed determines."""

    def after_step(self, model: Any, progress: float) -> None:
        with torch.no_grad():
            model[1].weight.add_(os.getpid() * 1e-6)


class Killer(Listener):
    """Kills the other process of the training after the second epoch, before its checkpoint is written."""

    def epoch(self, epoch: Any) -> None:
        super().epoch(epoch)
        if epoch.epoch != 1:
            return
        (other,) = [each for each in psutil.Process().children() if "src.training.ranks" in " ".join(each.cmdline())]
        os.kill(other.pid, signal.SIGKILL)


class Failing(StepCallback):
    """Fails in the first step, in every process."""

    def after_step(self, model: Any, progress: float) -> None:
        raise RuntimeError("not enough weights")


def network(splits: DataSplits, *, normalized: bool = False) -> nn.Module:
    torch.manual_seed(3)
    pixels = splits.train.images[0].numel()
    norm = nn.BatchNorm1d(16) if normalized else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 16), norm, nn.ReLU(), nn.Linear(16, len(splits.classes)))


def train(
    data: DataSplits, model: nn.Module, checkpoint: Path, devices: int, listener: Any = None, *callbacks: StepCallback
) -> Fitted:
    recipe = Recipe(
        epochs=3,
        batch_size=4,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        rate=WarmupCosine(warmup=0.1),
        loss=CrossEntropy(label_smoothing=0.1),
        keep="last",
    )
    batches = TensorBatches(
        data.train, 4, mean=data.mean, std=data.std, augmentation=data.augmentation, shuffle_seed=7, drop_last=True
    )
    return fit(
        model,
        batches,
        evaluation_batches(data, data.validation, batch_size=3),
        recipe,
        Compute("cpu", "float32", 1, devices),
        seed=7,
        checkpoint=checkpoint,
        progress=listener or Listener(),
        callbacks=callbacks,
    )


@WORKING
def test_two_processes_train_as_one_does(splits: DataSplits, tmp_path: Path) -> None:
    """The mean of two halves' gradients is the gradient of the whole, to the rounding of its sums."""
    alone, together = network(splits), network(splits)
    mine, other = HalfMask(), HalfMask()
    first = train(splits, alone, tmp_path / "1.ckpt", 1, None, mine)
    second = train(splits, together, tmp_path / "2.ckpt", 2, None, other)
    for one, two in zip(weights(alone), weights(together), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
    assert int((together[1].weight == 0).sum()) == int((alone[1].weight == 0).sum()) > 0
    for one, two in zip(first.epochs, second.epochs, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-4)
        assert one.validation_accuracy == two.validation_accuracy
        assert one.train_accuracy == two.train_accuracy


@WORKING
def test_an_interrupted_training_by_two_ends_at_the_same_weights(splits: DataSplits, tmp_path: Path) -> None:
    """A batch normalization has statistics of its own in each process, and those of rank 0 count."""
    whole = network(splits, normalized=True)
    train(splits, whole, tmp_path / "whole.ckpt", 2)
    with pytest.raises(KeyboardInterrupt):
        train(splits, network(splits, normalized=True), tmp_path / "c.ckpt", 2, Listener(interrupt_after=0))
    resumed = network(splits, normalized=True)
    fitted = train(splits, resumed, tmp_path / "c.ckpt", 2)
    assert fitted.resumed_epoch == 0
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


@WORKING
def test_different_weights_in_the_processes_are_refused(splits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the processes of the training have different weights"):
        train(splits, network(splits), tmp_path / "c.ckpt", 2, None, Drifting())


@WORKING
def test_a_killed_process_is_said_and_the_next_training_goes_on(splits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a process of the training ended .*goes on at the last epoch"):
        train(splits, network(splits), tmp_path / "c.ckpt", 2, Killer())
    listener = Listener()
    train(splits, network(splits), tmp_path / "c.ckpt", 1, listener)  # one process can go on, too
    assert listener.resumed_at == 0


def test_batches_that_cannot_be_divided_are_refused(splits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training.batch_size=4 cannot be divided among training.devices=3"):
        train(splits, network(splits), tmp_path / "c.ckpt", 3)


def test_shares_of_a_batch_are_all_of_it(splits: DataSplits) -> None:
    batches = TensorBatches(splits.train, 6, mean=splits.mean, std=splits.std, shuffle_seed=1)
    parts = [list(Share(batches, part, 2)) for part in range(2)]
    for at, (images, labels) in enumerate(batches):
        assert torch.equal(parts[0][at][0], images[::2])
        assert sorted([*parts[0][at][1].tolist(), *parts[1][at][1].tolist()]) == sorted(labels.tolist())


def test_a_batch_that_cannot_be_shared_evenly_is_refused(splits: DataSplits) -> None:
    odd = TensorBatches(splits.train, 7, mean=splits.mean, std=splits.std, shuffle_seed=1)
    with pytest.raises(InputError, match=r"a batch of 7 images cannot be divided .*drop_last=True"):
        list(Share(odd, 0, 2))


class Fragile:
    """Ends the process that reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_a_process_that_ends_before_it_begins_is_said_at_once() -> None:
    training = partial(print, Fragile())
    with (
        pytest.raises(InputError, match="a process of the training ended before it began"),
        started(Compute("cpu", "float32", 1, 2), training),
    ):
        pass
    assert [each for each in psutil.Process().children() if "src.training.ranks" in " ".join(each.cmdline())] == []


@WORKING
def test_an_error_of_every_process_is_no_lost_process(splits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not enough weights"):
        train(splits, network(splits), tmp_path / "c.ckpt", 2, None, Failing())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": 0}, "devices must be a number from 1, and is 0"),
        ({"devices": True}, "devices must be a number from 1"),
        ({"strategy": "fsdp"}, "strategy must be one of auto, ddp, and is fsdp: methods change whole weights"),
    ],
)
def test_what_cannot_train_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Compute.check("cpu", "float32", 1, **settings)


def test_cores_are_divided_among_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.training.recipe.usable_cores", lambda: 5)
    assert Compute.resolve("cpu", "float32", "auto", 2) == Compute("cpu", "float32", 2, 2)


@WORKING
def test_a_run_by_two_processes_makes_what_a_run_by_one_makes(commands: Commands) -> None:
    """Zeros, shared values and files; everything that happens once happens once."""
    small = ["training.epochs=3", "training.batch_size=128", "model.blocks=[[8],[16]]", "model.dense=32"]
    found = {}
    for devices in (1, 2):
        for method in ("prune_magnitude", "cluster"):
            said, folder = commands.run(f"method={method}", f"training.devices={devices}", *small)
            assert said.code == 0, said.err
            assert said.out.count("baseline ") >= 1
            rows = json.loads((folder / "results.json").read_text())["rows"]
            found[devices, method] = {row["variant"]: row for row in rows}
    for method in ("prune_magnitude", "cluster"):
        one, two = found[1, method], found[2, method]
        for variant in ("baseline", method):
            # After three epochs these differ by as much as two seeds do; the benchmark compares whole trainings.
            assert abs(one[variant]["accuracy"] - two[variant]["accuracy"]) < 0.15
        assert one[method]["nonzero_parameters"] == two[method]["nonzero_parameters"]
    stages = [json.loads(path.read_text()) for path in commands.artifacts.glob("*/stage.json")]
    fitted = [stage for stage in stages if stage.get("epochs")]
    assert len(fitted) == 6  # a baseline and two methods, by one and by two processes
    for stage in fitted:
        assert [epoch["epoch"] for epoch in stage["epochs"]] == list(range(len(stage["epochs"])))
    clustered = [path for path in commands.artifacts.glob("*/weights.safetensors") if _is_clustered(path)]
    assert len(clustered) == 2


def _is_clustered(path: Path) -> bool:
    """Whether a weight of many numbers has at most 64 values."""
    weights = [weight for weight in load_file(path).values() if weight.size > 1000]
    return all(len(np.unique(weight)) <= 64 for weight in weights)
