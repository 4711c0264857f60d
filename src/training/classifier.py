"""The LightningModule of every training; trainings differ only in its arguments."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from src.contracts import EpochBatches, Loss, Recipe, StepCallback, TrainingProgress
from src.training import ranks
from src.training.captured import Graphs, Replayed, StaticSteps, why_not
from src.training.steps import Step, Steps, Sums, autocast


class Classifier(pl.LightningModule):
    """Trains ``model`` on normalized images and labels; one Lightning step is one epoch.

    The loop over batches is not Lightning's (manual optimization): the 40 hooks that Lightning calls for each step cost
    a sixth of a small network's speed, and ``self.log`` in each step another fifth. On a GPU the steps are replayed.

    Args:
        model: The network, trained in place.
        recipe: Optimizer, learning rate and number of epochs.
        loss: The loss that is minimized.
        precision: ``bf16`` computes the forward pass and the loss under autocast.
        callbacks: Callbacks of a compression method, called around each step.
        progress: Gets steps, not each.

    Attributes:
        training_sums, validation_sums: Sums of the present epoch.
    """

    STATIC: tuple[str, ...] = ("cuda",)  # devices on which steps are started by the host more slowly than they run

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
        self.validation_sums = Sums(self.device)
        self._graphs: Graphs | None = None
        self._steps: Steps | None = None
        self._pass: Replayed | None = None

    @property
    def training_sums(self) -> Sums:
        """Sums of the training batches."""
        assert self._steps is not None
        return self._steps.sums

    def configure_optimizers(self) -> Any:
        optimizer = self.recipe.optimizer(p for p in self.model.parameters() if p.requires_grad)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def training_step(self, batches: EpochBatches, index: int) -> None:
        if self._steps is None:  # weights and optimizer state of a checkpoint are in their places now
            self._steps = self._steps_over(batches)
        self._steps.run(batches, self.current_epoch)
        self.training_sums.add_other_ranks()

    def _steps_over(self, batches: EpochBatches) -> Steps:
        """The loop over steps: in place and replayed on a GPU, unless something speaks against it."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        static = self.device.type in self.STATIC and ranks.count() == 1
        reason = why_not(self.model, optimizer, self.loss, self.callbacks, batches) if static else None
        if reason is not None:
            self.progress.say(f"the training step is not captured as a CUDA graph and is slower: {reason}")
        static = static and reason is None
        step = Step(
            self.model,
            optimizer,
            self.recipe,
            self.loss,
            self.precision,
            self.callbacks,
            self.device,
            cached=not static,
        )
        if not static:
            return Steps(step, self.recipe, self.callbacks, self.progress)
        graphs: Any = self._shared_graphs()
        return StaticSteps(step, self.recipe, self.callbacks, self.progress, batches, graphs)  # type: ignore[arg-type]

    def _shared_graphs(self) -> Graphs:
        if self._graphs is None:
            self._graphs = Graphs(self.device, self.progress.say)
        return self._graphs

    def validation_step(self, batches: EpochBatches, index: int) -> None:
        if self._pass is None:
            self.validation_sums = Sums(self.device)
            if self.device.type in self.STATIC and getattr(batches, "repeats", False) and ranks.count() == 1:
                self._pass = Replayed(
                    "the validation pass", lambda: self._validate(batches), self.model_tensors, self._shared_graphs()
                )
        if self._pass is None:
            self._validate(batches)
            return
        with self._shared_graphs().own_stream():
            self._pass.begin()
            self._pass()

    def release(self) -> None:
        """Let go of the graphs and their memory; the training is over."""
        self._steps = self._pass = self._graphs = None

    def model_tensors(self) -> list[torch.Tensor]:
        """Weights and buffers of the network."""
        return [*self.model.parameters(), *self.model.buffers()]

    def _validate(self, batches: EpochBatches) -> None:
        """Sum the hits over all batches; each of several processes takes every n-th batch."""
        self.validation_sums.reset()
        images_seen = 0
        for images, labels in itertools.islice(batches, ranks.rank(), None, ranks.count()):
            with autocast(self.device, self.precision, cached=self._pass is None):
                logits = self.model(images.contiguous(memory_format=torch.channels_last))
            self.validation_sums.add(logits, labels)
            images_seen += len(labels)
        self.validation_sums.images = images_seen
        self.validation_sums.add_other_ranks()
