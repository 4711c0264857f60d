"""Lightning callbacks of a training: seeding, records of epochs, the best weights, checkpoints."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import nn

from src.contracts import Epoch, EpochBatches, TrainingProgress
from src.files.writing import replacing
from src.training import ranks
from src.training.classifier import Classifier


class Course(Callback):
    """Seeds each epoch, records it, and reports its end.

    Everything random in an epoch follows from (seed, epoch), so that a resumed training is equal to the bit.

    Args:
        seed: Seed of the training.
        batches: Training batches; their epoch is set here.
        progress: Gets the record of each epoch.

    Attributes:
        epochs: Records of the finished epochs.
    """

    def __init__(self, seed: int, batches: EpochBatches, progress: TrainingProgress) -> None:
        self.seed, self.batches, self.progress = seed, batches, progress
        self.epochs: list[Epoch] = []
        self._started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)
        self.batches.set_epoch(trainer.current_epoch)
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        epoch = Epoch(
            epoch=trainer.current_epoch,
            train_loss=pl_module.training_sums.loss,
            train_accuracy=pl_module.training_sums.accuracy,
            validation_accuracy=pl_module.validation_sums.accuracy,
            learning_rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
            seconds=time.perf_counter() - self._started,
            finished_at=time.time(),
        )
        self.epochs.append(epoch)
        self.progress.epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [asdict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = [Epoch(**epoch) for epoch in state_dict["epochs"]]


class KeepBest(Callback):
    """Keeps a copy of the weights with the best validation accuracy; if two epochs are equal, the earlier ones.

    Attributes:
        accuracy: Validation accuracy of the kept weights, in [0, 1]; -1 before the first epoch.
        epoch: Epoch of the kept weights; -1 before the first epoch.
        weights: The kept weights, a state dict.
    """

    def __init__(self) -> None:
        self.accuracy = -1.0
        self.epoch = -1
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        if pl_module.validation_sums.accuracy > self.accuracy:
            self.accuracy, self.epoch = pl_module.validation_sums.accuracy, trainer.current_epoch
            self.weights = {name: value.detach().clone() for name, value in pl_module.model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Load the kept weights; the versions of its layers, which some need, are those of ``model``."""
        state = model.state_dict()
        state.update(self.weights)
        model.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.accuracy, self.epoch = state_dict["accuracy"], state_dict["epoch"]
        self.weights = state_dict["weights"]


class EpochCheckpoint(Checkpoint):
    """Writes the state of the training after each epoch.

    Args:
        path: The checkpoint, which each epoch replaces.
        beside: The trainer writes it whole by itself, while the training goes on (``CheckpointsBeside``).

    Of several processes that train together rank 0 writes it; the others take part.
    """

    def __init__(self, path: Path, *, beside: bool = False) -> None:
        self.path, self.beside = path, beside

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.beside or ranks.rank():
            trainer.save_checkpoint(self.path)
            return
        with replacing(self.path) as part:
            trainer.save_checkpoint(part)
