"""Training a network; a training that is stopped resumes at its last epoch."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from src.contracts import Epoch, EpochBatches, InputError, Loss, Recipe, StepCallback, TrainingProgress
from src.training import ranks
from src.training.callbacks import Course, EpochCheckpoint, KeepBest
from src.training.checkpoints import CheckpointsBeside
from src.training.classifier import Classifier
from src.training.recipe import Compute


@dataclass(frozen=True)
class Fitted:
    """The result of a training, beside the weights.

    Attributes:
        epochs: A record for each epoch.
        keep: ``best`` on validation data, or ``last``.
        kept_epoch: The epoch whose weights the model has now.
        resumed_epoch: The last finished epoch before a stop; None if the training ran without one.
    """

    epochs: tuple[Epoch, ...]
    keep: str
    kept_epoch: int
    resumed_epoch: int | None

    @property
    def validation_accuracy(self) -> float:
        """Validation accuracy of the kept weights, as measured while training."""
        return self.epochs[self.kept_epoch].validation_accuracy


def use_compute(compute: Compute) -> None:
    """Set the number of threads of this process, and flush denormal numbers to zero."""
    torch.set_num_threads(compute.threads)
    torch.set_flush_denormal(True)
    # Deterministic algorithms would also fill each new tensor first, against code that reads memory it never wrote.
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

    The same arguments give the same weights, to the bit on one machine, however often the training was stopped. On a
    GPU steps are replayed, and a killed training may resume an epoch or a few before its last one.

    Args:
        model: The network.
        train: Training batches on the device of ``compute``; ``set_epoch`` chooses their epoch.
        validation: Batches that choose the weights to keep.
        recipe: How the network is trained.
        compute: Where and how numbers are computed.
        seed: Seed of everything random in an epoch.
        checkpoint: File that is written after each epoch; if it exists, the training resumes from it.
        progress: Gets steps and epochs.
        callbacks: Callbacks of a compression method, called around each step.
        loss: The loss; None takes that of the recipe.

    Raises:
        InputError: The weights diverged, and the checkpoint is removed; it cannot be read, and stays; or the batches
            cannot be divided among the devices.
        KeyboardInterrupt: Ctrl-C; the checkpoint of the last epoch stays.
    """
    use_compute(compute)
    _check_share(recipe, compute)
    resumed_epoch = _last_epoch(checkpoint)
    resume = checkpoint if resumed_epoch is not None else None
    of_recipe = (recipe, compute, seed, checkpoint, list(callbacks), loss or recipe.loss, resume)
    training = partial(train_epochs, model, train, validation, *of_recipe)
    progress.start(recipe.epochs, recipe.epochs * len(train))
    if resumed_epoch is not None:
        progress.resumed(resumed_epoch)
    try:
        if compute.devices == 1:
            epochs, best = training(progress=progress)
        else:
            with ranks.started(compute, training) as place:
                epochs, best = training(progress=progress, place=place)
    finally:
        progress.stop()
    _refuse_diverged(model, len(epochs), checkpoint)
    if best is not None:
        best.restore(model)
    model.to("cpu").to(memory_format=torch.contiguous_format).eval()
    return Fitted(tuple(epochs), recipe.keep, best.epoch if best else len(epochs) - 1, resumed_epoch)


def train_epochs(
    model: nn.Module,
    train: EpochBatches,
    validation: EpochBatches,
    recipe: Recipe,
    compute: Compute,
    seed: int,
    checkpoint: Path,
    callbacks: Sequence[StepCallback],
    loss: Loss,
    resume: Path | None,
    progress: TrainingProgress,
    place: ranks.Place | None = None,
) -> tuple[list[Epoch], KeepBest | None]:
    """Train all epochs in this process, which may be one of several.

    Args:
        resume: The checkpoint, if the training goes on from it; the other arguments are those of ``fit``.
        place: Where this process stands among those of the training; None if it trains alone.

    Returns:
        Records of the epochs, and what kept the best weights.
    """
    if place is not None:
        train = ranks.Share(train, place.local_rank(), compute.devices)
    course = Course(seed, train, progress)
    best = KeepBest() if recipe.keep == "best" else None
    model.to(memory_format=torch.channels_last)
    module = Classifier(model, recipe, loss, compute.precision, callbacks, progress).train()
    beside = CheckpointsBeside() if compute.device == "cuda" else None
    after_epochs = [course, *([best] if best else []), EpochCheckpoint(checkpoint, beside=beside is not None)]
    trainer = _trainer(recipe, compute, after_epochs, beside, place)
    try:
        _run(trainer, module, train, validation, resume)
        if beside:
            beside.finish()
    finally:
        module.release()
        if beside is not None:
            beside.teardown()
    return course.epochs, best


def _check_share(recipe: Recipe, compute: Compute) -> None:
    if recipe.batch_size % compute.devices:
        raise InputError(
            f"training.batch_size={recipe.batch_size} cannot be divided among training.devices={compute.devices}: each "
            f"takes its share of every batch"
        )


def _refuse_diverged(model: nn.Module, epochs: int, checkpoint: Path) -> None:
    """Remove the checkpoint of a training whose weights are no numbers that anything can be computed from."""
    if epochs and not all(torch.isfinite(t.float().square().sum()) for t in model.state_dict().values()):
        checkpoint.unlink()
        raise InputError(
            f"training diverged: weights became NaN, infinite or too large by epoch {epochs}; lower the learning rate"
        )


def _trainer(
    recipe: Recipe,
    compute: Compute,
    callbacks: list[Callback],
    beside: CheckpointsBeside | None,
    place: ranks.Place | None,
) -> pl.Trainer:
    """A Lightning trainer that loops over epochs and leaves all else to ``callbacks``."""
    return pl.Trainer(
        accelerator="gpu" if compute.device == "cuda" else "cpu",
        devices=1,
        strategy="auto" if place is None else ranks.Ranks(compute.devices, place),
        max_epochs=recipe.epochs,
        callbacks=callbacks if place is None else [*callbacks, ranks.SameWeights()],
        plugins=[beside] if beside is not None else None,
        deterministic=True if compute.device == "cpu" else "warn",  # some CUDA operations have no other kind
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _last_epoch(checkpoint: Path) -> int | None:
    """The epoch after which the checkpoint was written; None if there is no checkpoint.

    Raises:
        InputError: It is no checkpoint, or holds more than numbers and tensors.
    """
    if not checkpoint.exists():
        return None
    try:
        return int(torch.load(checkpoint, weights_only=True, map_location="cpu")["epoch"])
    except Exception as error:  # of many types; torch's own text advises to run the code of a pickle
        raise InputError(
            f"{checkpoint} cannot be resumed: it is damaged, or holds more than numbers and tensors, which could run "
            f"code; remove it, and the training starts again"
        ) from error


def _run(
    trainer: pl.Trainer, module: Classifier, train: EpochBatches, validation: EpochBatches, resume: Path | None
) -> None:
    """Train, from the checkpoint ``resume`` if there is one; Ctrl-C raises KeyboardInterrupt as usual."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, _Epoch(train), _Epoch(validation), ckpt_path=resume, weights_only=True)
    except SystemExit as stop:  # Lightning turns Ctrl-C into an exit with code 1, and ignores further ones
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stop


class _Epoch:
    """A Lightning loader whose only batch is all batches of an epoch."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[EpochBatches]:
        yield self.batches
