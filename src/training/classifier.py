"""The LightningModule of every training here; what differs between trainings are its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from src.contracts import Loss


class Sums:
    """Loss, hits and images of an epoch so far; on the device, and read only when somebody asks."""

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
        """Mean over batches."""
        return float(self.loss_sum) / max(1, self.batches)

    @property
    def accuracy(self) -> float:
        """Share of images classified rightly."""
        return int(self.hit_sum) / max(1, self.images)


class Classifier(pl.LightningModule):
    """Trains ``model`` on batches of normalized images and labels.

    Sums of losses and hits are kept in tensors and read once an epoch: ``self.log`` at each step would cost a fifth
    of a small network's speed.

    Args:
        model: Trained in place.
        loss: What is minimised.
        optimizer: Called with the parameters.
    """

    def __init__(self, model: nn.Module, loss: Loss, optimizer: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.optimizer_of = optimizer
        self.training_sums = Sums(self.device)
        self.validation_sums = Sums(self.device)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # Lightning notes each of its hooks, some 40 a step: past Module's slow way
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_of(p for p in self.model.parameters() if p.requires_grad)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def on_train_epoch_start(self) -> None:
        self.training_sums = Sums(self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, labels = batch
        images = images.contiguous(memory_format=torch.channels_last)
        logits = self.model(images)
        loss = self.loss(logits, labels, images)
        self.training_sums.add(logits, labels, loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.validation_sums = Sums(self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, labels = batch
        self.validation_sums.add(self.model(images.contiguous(memory_format=torch.channels_last)), labels)
