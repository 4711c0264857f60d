"""Training a model, resumable after any stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from src.contracts import Epoch, EpochBatches, InputError, Loss, StepCallback, TrainingProgress
from src.training.callbacks import Course, EpochCheckpoint, KeepBest
from src.training.classifier import Classifier
from src.training.recipe import Compute, Recipe


@dataclass(frozen=True)
class Fitted:
    """What a training came to.

    Attributes:
        epochs: One record an epoch.
        keep: ``best`` on validation data, or ``last``.
        kept_epoch: The epoch whose weights the model now has.
        resumed_epoch: The epoch it went on from after a stop; None for one that ran through.
    """

    epochs: tuple[Epoch, ...]
    keep: str
    kept_epoch: int
    resumed_epoch: int | None

    @property
    def validation_accuracy(self) -> float:
        """Of the kept weights, as measured while training."""
        return self.epochs[self.kept_epoch].validation_accuracy


def use_compute(compute: Compute) -> None:
    """Set this process's threads and have denormal numbers flushed to zero."""
    torch.set_num_threads(compute.threads)
    torch.set_flush_denormal(True)
    # Deterministic algorithms would also fill each new tensor first, against code that reads what it never wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def fit(
    model: nn.Module,
    train: EpochBatches,
    validation: EpochBatches,
    recipe: Recipe,
    compute: Compute,
    *,
    seed: int,
    checkpoint: Path,
    progress: TrainingProgress,
    callbacks: Sequence[StepCallback] = (),
    loss: Loss | None = None,
) -> Fitted:
    """Train ``model`` in place; afterwards it is on the CPU, in eval mode.

    Args:
        train: Batches to learn from, on the device of ``compute``; epoch e's are those after ``set_epoch(e)``.
        validation: Batches that choose the weights to keep.
        checkpoint: Written after each epoch; where it exists, training goes on from it. The same arguments end at the
            same weights, to the bit on one CPU machine, however often the training was cut off.
        progress: Told of steps and epochs.
        callbacks: Of a compression method, called around each step.
        loss: In place of the recipe's.

    Raises:
        InputError: The weights became NaN or infinite; the checkpoint is removed.
        KeyboardInterrupt: Ctrl-C; the last epoch's checkpoint stays.
    """
    use_compute(compute)
    progress.start(recipe.epochs, recipe.epochs * len(train))
    course = Course(seed, train, progress)
    best = KeepBest() if recipe.keep == "best" else None
    model.train().to(memory_format=torch.channels_last)
    module = Classifier(model, recipe, loss or recipe.loss, compute.precision, callbacks, progress)
    module.train()
    trainer = pl.Trainer(
        accelerator="gpu" if compute.device == "cuda" else "cpu",
        devices=1,
        max_epochs=recipe.epochs,
        callbacks=[course, *([best] if best else []), EpochCheckpoint(checkpoint)],
        deterministic=True if compute.device == "cpu" else "warn",  # some CUDA operations have no other kind
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    resume = checkpoint if checkpoint.exists() else None
    resumed_epoch = None
    if resume:
        resumed_epoch = int(torch.load(resume, weights_only=True, map_location="cpu")["epoch"])
        progress.resumed(resumed_epoch)
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, _Epoch(train), validation, ckpt_path=resume, weights_only=True)
    except SystemExit as stop:  # Lightning turns Ctrl-C into an exit with code 1, and ignores further ones
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stop
    finally:
        progress.stop()
    if course.epochs and not all(torch.isfinite(tensor).all() for tensor in model.state_dict().values()):
        checkpoint.unlink()
        raise InputError(
            f"training diverged: weights became NaN or infinite by epoch {len(course.epochs)}; lower the learning rate"
        )
    if best is not None and best.weights:
        model.load_state_dict(best.weights)
    model.to("cpu").to(memory_format=torch.contiguous_format).eval()
    kept = best.epoch if best is not None else len(course.epochs) - 1
    return Fitted(tuple(course.epochs), recipe.keep, kept, resumed_epoch)


class _Epoch:
    """All batches of an epoch as the one batch of a Lightning loader."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[EpochBatches]:
        yield self.batches
