"""Training: repeatable to the bit, however often it was stopped, and exact about which weights it keeps."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.contracts import DataSplits, Epoch, InputError, StepCallback
from src.data.batches import TensorBatches, evaluation_batches
from src.training.callbacks import EpochCheckpoint, KeepBest
from src.training.fit import Fitted, fit
from src.training.losses import CrossEntropy
from src.training.rates import WarmupCosine
from src.training.recipe import Compute, Recipe
from tests.odd_networks import AsksForItsVersion


class Listener:
    """Notes epochs, and may interrupt."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.interrupt_after = interrupt_after
        self.epochs: list[Epoch] = []
        self.resumed_at: int | None = None

    def start(self, epochs: int, steps: int) -> None:
        self.steps = steps

    def resumed(self, epoch: int) -> None:
        self.resumed_at = epoch

    def step(self, epoch: int, step: int, loss: float) -> None:
        if self.interrupt_after is not None and epoch > self.interrupt_after:
            raise KeyboardInterrupt

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def stop(self) -> None:
        return None


def network(splits: DataSplits) -> nn.Module:
    torch.manual_seed(0)
    channels = splits.image_shape[0]
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(32, len(splits.classes)),
    )  # fmt: skip


def train(
    splits: DataSplits,
    model: nn.Module,
    checkpoint: Path,
    listener: Any = None,
    *,
    epochs: int = 4,
    keep: str = "last",
    rate: float = 0.05,
    precision: str = "float32",
    callbacks: tuple[StepCallback, ...] = (),
) -> Fitted:
    recipe = Recipe(
        epochs=epochs,
        batch_size=4,
        optimizer=partial(torch.optim.SGD, lr=rate, momentum=0.9),
        rate=WarmupCosine(warmup=0.1),
        loss=CrossEntropy(label_smoothing=0.1),
        keep=keep,
    )
    batches = TensorBatches(
        splits.train,
        4,
        mean=splits.mean,
        std=splits.std,
        augmentation=splits.augmentation,
        shuffle_seed=7,
        drop_last=True,
    )
    return fit(
        model,
        batches,
        evaluation_batches(splits, splits.validation, batch_size=50),
        recipe,
        Compute("cpu", precision, 1),
        seed=7,
        checkpoint=checkpoint,
        progress=listener or Listener(),
        callbacks=callbacks,
    )


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_interrupted_training_ends_at_the_same_weights(splits: DataSplits, tmp_path: Path, precision: str) -> None:
    uninterrupted = network(splits)
    train(splits, uninterrupted, tmp_path / "uninterrupted.ckpt", precision=precision)
    interrupted = network(splits)
    with pytest.raises(KeyboardInterrupt):
        train(splits, interrupted, tmp_path / "c.ckpt", Listener(interrupt_after=1), precision=precision)
    torch.manual_seed(99)  # the state of the process must not matter
    resumed, listener = network(splits), Listener()
    fitted = train(splits, resumed, tmp_path / "c.ckpt", listener, precision=precision)
    assert listener.resumed_at == fitted.resumed_epoch == 2
    assert [epoch.epoch for epoch in fitted.epochs] == [0, 1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(weights(uninterrupted), weights(resumed), strict=True))


def test_a_finished_checkpoint_gives_its_weights_without_training(splits: DataSplits, tmp_path: Path) -> None:
    first, second, listener = network(splits), network(splits), Listener()
    train(splits, first, tmp_path / "c.ckpt")
    fitted = train(splits, second, tmp_path / "c.ckpt", listener)
    assert listener.epochs == []
    assert len(fitted.epochs) == 4
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_the_weights_of_the_best_epoch_are_kept_if_the_recipe_says_so(splits: DataSplits, tmp_path: Path) -> None:
    model = network(splits)
    fitted = train(splits, model, tmp_path / "c.ckpt", epochs=6, keep="best")
    accuracies = [epoch.validation_accuracy for epoch in fitted.epochs]
    assert fitted.kept_epoch == accuracies.index(max(accuracies))
    hits = total = 0
    with torch.no_grad():
        for images, labels in evaluation_batches(splits, splits.validation, batch_size=50):
            hits += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    assert hits / total == pytest.approx(max(accuracies))


def test_another_seed_of_the_order_gives_other_weights(splits: DataSplits, tmp_path: Path) -> None:
    one, other = network(splits), network(splits)
    train(splits, one, tmp_path / "a.ckpt", epochs=1)
    batches = TensorBatches(splits.train, 4, mean=splits.mean, std=splits.std, shuffle_seed=8, drop_last=True)
    recipe = Recipe(
        epochs=1,
        batch_size=4,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        rate=WarmupCosine(warmup=0.1),
        loss=CrossEntropy(label_smoothing=0.1),
        keep="last",
    )
    validation = evaluation_batches(splits, splits.validation, batch_size=50)
    compute = Compute("cpu", "float32", 1)
    fit(other, batches, validation, recipe, compute, seed=8, checkpoint=tmp_path / "b.ckpt", progress=Listener())
    assert not torch.equal(weights(one)[0], weights(other)[0])


def test_callbacks_see_every_step_and_its_share(splits: DataSplits, tmp_path: Path) -> None:
    class Count(StepCallback):
        def __init__(self) -> None:
            self.before: list[float] = []
            self.after: list[float] = []

        def before_step(self, model: nn.Module, progress: float) -> None:
            self.before.append(progress)

        def after_step(self, model: nn.Module, progress: float) -> None:
            self.after.append(progress)

    count, listener = Count(), Listener()
    train(splits, network(splits), tmp_path / "c.ckpt", listener, epochs=2, callbacks=(count,))
    steps = listener.steps
    assert steps == 2 * (len(splits.train) // 4)
    assert count.before == [step / steps for step in range(steps)]
    assert count.after == [(step + 1) / steps for step in range(steps)]


def test_a_diverged_training_says_so(splits: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged"):
        train(splits, network(splits), tmp_path / "c.ckpt", rate=1e20)


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("hostile", [True, False], ids=["code", "text"])
def test_a_checkpoint_that_is_none_is_refused_in_one_line_and_not_run(
    splits: DataSplits, tmp_path: Path, hostile: bool
) -> None:
    path = tmp_path / "c.ckpt"
    torch.save({"epoch": 1, "more": Intruder(tmp_path / "intruded")}, path) if hostile else path.write_text("text")
    with pytest.raises(InputError, match=r"c\.ckpt cannot be resumed.*; remove it, and the training starts") as caught:
        train(splits, network(splits), path)
    assert "weights_only" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["c.ckpt"]


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    class HalfWriting:
        def save_checkpoint(self, path: Path) -> None:
            path.write_text("half")
            raise OSError("no space left")

    (tmp_path / "c.ckpt").write_text("old")
    trainer: Any = HalfWriting()
    with pytest.raises(OSError, match="no space left"):
        EpochCheckpoint(tmp_path / "c.ckpt").on_train_epoch_end(trainer, trainer)
    assert (tmp_path / "c.ckpt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["c.ckpt"]


def test_the_best_weights_are_restored_where_layers_ask_for_their_version() -> None:
    best, model = KeepBest(), AsksForItsVersion(3)
    best.weights = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    best.restore(model)
    assert all(bool((value == 1).all()) for value in model.state_dict().values())
