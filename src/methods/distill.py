"""Knowledge distillation as a step of its own: train on with a loss that listens to teachers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from src.contracts import Context, NoEffectError, TaughtLoss


class Distill:
    """Train the network on with the recipe's loss, which compares it with teachers.

    The same loss may stand in ``fine_tune`` of any other step, whose change is then trained under teachers.

    Args:
        fine_tune: A recipe whose loss has teachers (``src.training.losses.Distillation``).

    Paper: Hinton et al. 2015, arXiv:1503.02531.
    """

    def __init__(self, *, fine_tune: Any) -> None:
        if not isinstance(getattr(fine_tune, "loss", None), TaughtLoss):
            raise ValueError("fine_tune.loss has no teacher: src.training.losses.Distillation is meant")
        self.fine_tune = fine_tune

    def compress(self, model: nn.Module, context: Context) -> nn.Module:
        before = copy.deepcopy(model.state_dict())
        context.fine_tune(model, self.fine_tune)
        if all(torch.equal(value, before[name]) for name, value in model.state_dict().items()):
            raise NoEffectError("training under the teachers changed no weight")
        return model
