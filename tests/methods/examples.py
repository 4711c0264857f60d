"""What the tests of several methods share: a small network, a recipe, a context, a short training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from src.contracts import Context, DataSplits, Loss, Recipe, StepCallback
from src.data.batches import evaluation_batches
from src.methods.prune import Prune
from src.primitives.distributions import Global
from src.primitives.schedules import OneShot
from src.primitives.scores import Magnitude
from src.training.losses import CrossEntropy


class Net(nn.Module):
    """A convolution, its batch normalization and a dense layer: 216 + 20,480 weights for images of 16x16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 16 * 16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn(self.conv(images))).flatten(1))


def recipe(**changed: Any) -> Recipe:
    settings: dict[str, Any] = {
        "epochs": 1,
        "batch_size": 6,
        "optimizer": functools.partial(torch.optim.Adam, lr=1e-3),
        "rate": lambda progress: 1.0,
        "loss": CrossEntropy(label_smoothing=0.0),
        "keep": "last",
    }
    return Recipe(**{**settings, **changed})


def prune(**changed: Any) -> Prune:
    settings: dict[str, Any] = {
        "sparsity": 0.7,
        "scores": Magnitude(),
        "distribution": Global(),
        "schedule": OneShot(),
        "ignored": [],
        "batch_norm_batches": 0,
        "fine_tune": None,
    }
    return Prune(**{**settings, **changed})


def context(splits: DataSplits, fine_tune: Any = None) -> Context:
    calibration = evaluation_batches(splits, splits.calibration, batch_size=6)
    example = calibration.normalize(splits.calibration.images[:1])
    return Context(calibration, CrossEntropy(label_smoothing=0.0), example, 0, fine_tune)


def short_training(splits: DataSplits, steps: int = 4) -> Any:
    """A ``fine_tune`` of a few steps on the calibration images, with all that happens around a step."""
    batches = list(evaluation_batches(splits, splits.calibration, batch_size=6))

    def fine_tune(
        model: nn.Module, recipe: Recipe, callbacks: Sequence[StepCallback] = (), loss: Loss | None = None
    ) -> None:
        optimizer = recipe.optimizer(parameter for parameter in model.parameters() if parameter.requires_grad)
        model.train()
        for step in range(steps):
            images, labels = batches[step % len(batches)]
            for callback in callbacks:
                callback.before_step(model, step / steps)
            optimizer.zero_grad()
            (loss or recipe.loss)(model(images), labels, images).backward()
            for callback in callbacks:
                callback.after_backward(model)
            optimizer.step()
            for callback in callbacks:
                callback.after_step(model, (step + 1) / steps)
        model.eval()

    return fine_tune
