"""The LightningModule of every training; trainings differ only in its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from src.contracts import EpochBatches, Loss, Recipe, StepCallback, TrainingProgress


class Sums:
    """Sums of losses and hits in an epoch so far; they stay on the device until a property is read."""

    def __init__(self, device: torch.device) -> None:
        self.loss_sum = torch.zeros((), device=device)
        self.hit_sum = torch.zeros((), device=device, dtype=torch.int64)
        self.batches = self.images = 0

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Add a batch: ``logits [n, classes]``, ``labels [n]`` and its mean loss."""
        if loss is not None:
            self.loss_sum += loss.detach()
        self.hit_sum += (logits.detach().argmax(1) == labels).sum()
        self.batches += 1
        self.images += len(labels)

    @property
    def loss(self) -> float:
        """Mean loss over the batches."""
        return float(self.loss_sum) / max(1, self.batches)

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified correctly."""
        return int(self.hit_sum) / max(1, self.images)


class Classifier(pl.LightningModule):
    """Trains ``model`` on normalized images and labels; one Lightning step is one epoch.

    The loop over batches is written out here (manual optimization): the 40 hooks that Lightning calls for each step
    cost a sixth of a small network's speed, and ``self.log`` in each step another fifth.

    Args:
        model: The network, trained in place.
        recipe: Optimizer, learning rate and number of epochs.
        loss: The loss that is minimized.
        precision: ``bf16`` computes the forward pass and the loss under autocast.
        callbacks: Callbacks of a compression method, called around each step.
        progress: Gets every ``REPORTED``-th step; all steps would cost a tenth of a small network's speed.
    """

    REPORTED = 20

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        loss: Loss,
        precision: str,
        callbacks: Sequence[StepCallback],
        progress: TrainingProgress,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.loss = loss
        self.recipe, self.precision, self.callbacks, self.progress = recipe, precision, list(callbacks), progress
        self.training_sums = Sums(self.device)
        self.validation_sums = Sums(self.device)

    def configure_optimizers(self) -> Any:
        optimizer = self.recipe.optimizer(p for p in self.model.parameters() if p.requires_grad)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def training_step(self, batches: EpochBatches, index: int) -> None:
        self.training_sums = sums = Sums(self.device)
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        step = self.current_epoch * len(batches)
        total = self.recipe.epochs * len(batches)
        for images, labels in batches:
            factor = self.recipe.rate(step / total)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            for callback in self.callbacks:
                callback.before_step(self.model, step / total)
            images = images.contiguous(memory_format=torch.channels_last)
            with self._autocast():
                logits = self.model(images)
                loss = self.loss(logits, labels, images)
            optimizer.zero_grad()
            loss.backward()
            for callback in self.callbacks:
                callback.after_backward(self.model)
            optimizer.step()
            step += 1
            for callback in self.callbacks:
                callback.after_step(self.model, step / total)
            sums.add(logits, labels, loss)
            if step % self.REPORTED == 0:
                self.progress.step(self.current_epoch, step, sums.loss)

    def on_validation_epoch_start(self) -> None:
        self.validation_sums = Sums(self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, labels = batch
        with self._autocast():
            logits = self.model(images.contiguous(memory_format=torch.channels_last))
        self.validation_sums.add(logits, labels)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
