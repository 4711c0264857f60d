"""Knowledge distillation as a step of its own: training goes on with a loss that compares with teachers."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from src.contracts import Compressed, Context, Method, NoEffectError, Recipe, TaughtLoss


@dataclass(frozen=True, kw_only=True)
class Distill(Method):
    """Train the network further with the recipe's loss, which compares it with teachers.

    The ``fine_tune`` of any other method can have the same loss; its change is then trained under teachers.

    Attributes:
        fine_tune: A recipe whose loss has teachers (``src.training.losses.Distillation``).

    Paper: Hinton et al. 2015, arXiv:1503.02531.
    """

    fine_tune: Recipe

    def __post_init__(self) -> None:
        if self.fine_tune is None or not isinstance(self.fine_tune.loss, TaughtLoss):
            raise ValueError("fine_tune.loss has no teacher: use src.training.losses.Distillation")

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        """Train ``model`` in place; raises NoEffectError if no weight changes."""
        before = copy.deepcopy(model.state_dict())
        context.fine_tune(model, self.fine_tune)
        if all(torch.equal(value, before[name]) for name, value in model.state_dict().items()):
            raise NoEffectError("training under the teachers changed no weight")
        return Compressed(model)
