"""The LightningModule of every training here; what differs between trainings are its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from src.contracts import Loss


class Classifier(pl.LightningModule):
    """Trains ``model`` on batches of normalized images and labels.

    Sums of losses and hits are kept in tensors and read once an epoch: ``self.log`` at each step would cost a fifth
    of a small network's speed.

    Args:
        model: Trained in place.
        loss: What is minimised.
        optimizer: Called with the parameters.
        rate: Factor of the learning rate at a share of all steps.
        total_steps: Of the whole training.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: Callable[..., Any],
        rate: Callable[[float], float],
        total_steps: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.optimizer_of = optimizer
        self.rate = rate
        self.total_steps = total_steps
        self.train_sums = torch.zeros(3)
        self.validation_sums = torch.zeros(2)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_of(p for p in self.model.parameters() if p.requires_grad)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step / self.total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self.train_sums = torch.zeros(3, device=self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, labels = batch
        images = images.contiguous(memory_format=torch.channels_last)
        logits = self.model(images)
        loss = self.loss(logits, labels, images)
        with torch.no_grad():
            self.train_sums[0] += loss * len(labels)
            self.train_sums[1] += (logits.argmax(1) == labels).sum()
            self.train_sums[2] += len(labels)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.validation_sums = torch.zeros(2, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, labels = batch
        logits = self.model(images.contiguous(memory_format=torch.channels_last))
        self.validation_sums[0] += (logits.argmax(1) == labels).sum()
        self.validation_sums[1] += len(labels)

    @property
    def train_loss(self) -> float:
        """Mean loss of the epoch so far."""
        return float(self.train_sums[0] / self.train_sums[2].clamp(min=1))

    @property
    def train_accuracy(self) -> float:
        """Share of training images classified rightly in the epoch so far."""
        return float(self.train_sums[1] / self.train_sums[2].clamp(min=1))

    @property
    def validation_accuracy(self) -> float:
        """Share of validation images classified rightly in the last validation."""
        return float(self.validation_sums[0] / self.validation_sums[1].clamp(min=1))
