"""The steps of a training: what one step does, and the loop over an epoch's steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import EpochBatches, Loss, Recipe, StepCallback, TrainingProgress
from src.training import ranks


class Sums:
    """Sums of losses and hits in an epoch so far; they stay on the device, in place, until a property is read.

    Attributes:
        loss_sum, hit_sum: ``[]``, float32 and int64.
        batches, images: How many were added, as the loop over batches counts them.
    """

    def __init__(self, device: torch.device) -> None:
        self.loss_sum = torch.zeros((), device=device)
        self.hit_sum = torch.zeros((), device=device, dtype=torch.int64)
        self.batches = self.images = 0

    def reset(self) -> None:
        """Begin an epoch."""
        self.loss_sum.zero_()
        self.hit_sum.zero_()

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Add a batch: ``logits [n, classes]``, ``labels [n]`` and its mean loss; mixed labels ``[n, classes]``."""
        if labels.dim() == 2:
            labels = labels.argmax(1)
        if loss is not None:
            self.loss_sum += loss.detach()
        self.hit_sum += (logits.detach().argmax(1) == labels).sum()

    def add_other_ranks(self) -> None:
        """Make them the sums over all processes that train together, each of which had a share of the images."""
        if ranks.count() > 1:
            images = torch.tensor(self.images, device=self.hit_sum.device)
            for each in (self.loss_sum, self.hit_sum, images):
                ranks.total(each)
            self.loss_sum /= ranks.count()
            self.images = int(images)

    @property
    def loss(self) -> float:
        """Mean loss over the batches."""
        return float(self.loss_sum) / max(1, self.batches)

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified correctly."""
        return int(self.hit_sum) / max(1, self.images)


def autocast(device: torch.device, precision: str, *, cached: bool = True) -> torch.autocast:
    """Autocast to bfloat16 if ``precision`` is ``bf16``; without a cache if the casts are captured in a graph."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=cached)


class Step:
    """One training step on a batch: forward, loss, backward, callbacks, optimizer, sums.

    It reads no number on the host and changes tensors in place, so that a GPU can replay it
    (``src.training.captured``), as long as the network, the loss and the callbacks do the same.

    Args:
        model: The network.
        optimizer: Holds the network's parameters.
        recipe: Its factor of auxiliary losses is used.
        loss: What is minimized.
        precision: ``bf16`` computes the forward pass and the loss under autocast.
        callbacks: Their ``after_backward`` is a part of the step.
        device: Where the network is.
        cached: Whether autocast may keep the cast weights until the end of the forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        recipe: Recipe,
        loss: Loss,
        precision: str,
        callbacks: Sequence[StepCallback],
        device: torch.device,
        *,
        cached: bool = True,
    ) -> None:
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.auxiliary_weight = recipe.auxiliary_weight
        self.precision, self.callbacks, self.device, self.cached = precision, callbacks, device, cached
        self.sums = Sums(device)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Train on ``images [n, c, h, w]``, normalized, and ``labels [n]``."""
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision, cached=self.cached):
            logits = self.model(images)
            loss = self.loss(logits, labels, images)
            for auxiliary in getattr(logits, "auxiliary", ()):  # of GoogLeNet and Inception, only in training mode
                loss = loss + self.auxiliary_weight * self.loss(auxiliary, labels, images)
        self.optimizer.zero_grad()
        loss.backward()
        ranks.average_gradients(self.model)
        for callback in self.callbacks:
            callback.after_backward(self.model)
        self.optimizer.step()
        ranks.share_buffers(self.model)
        self.sums.add(logits, labels, loss)


class Steps:
    """The loop over the steps of an epoch, each started from the host.

    Args:
        step: What a step does.
        recipe: Number of epochs and learning rate.
        callbacks: Called around each step.
        progress: Gets every ``REPORTED``-th step; all steps would cost a tenth of a small network's speed.
    """

    REPORTED = 20

    def __init__(
        self, step: Step, recipe: Recipe, callbacks: Sequence[StepCallback], progress: TrainingProgress
    ) -> None:
        self.step, self.recipe, self.progress = step, recipe, progress
        self.before = [c for c in callbacks if type(c).before_step is not StepCallback.before_step]
        self.after = [c for c in callbacks if type(c).after_step is not StepCallback.after_step]

    @property
    def sums(self) -> Sums:
        """Sums of the epoch so far."""
        return self.step.sums

    def run(self, batches: EpochBatches, epoch: int) -> None:
        """Train one epoch."""
        self.begin(len(batches))
        step, total = epoch * len(batches), self.recipe.epochs * len(batches)
        for images, labels in batches:
            factor = self.recipe.rate(step / total)
            for group in self.step.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            for callback in self.before:
                callback.before_step(self.step.model, step / total)
            self.step(images, labels)
            step += 1
            for callback in self.after:
                callback.after_step(self.step.model, step / total)
            self.count(len(labels))
            if step % self.REPORTED == 0:
                self.progress.step(epoch, step, self.sums.loss)

    def begin(self, batches: int) -> None:
        """Begin an epoch of so many batches."""
        self.sums.reset()
        self.sums.batches = self.sums.images = 0

    def count(self, images: int) -> None:
        """Count a batch of so many images."""
        self.sums.batches += 1
        self.sums.images += images
