"""Regularization-based pruning by NNCF: the network learns which weights go while it learns the weights themselves."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Claim, Compressed, Context, Loss, Method, Recipe, StepCallback, TaughtLoss
from src.methods import _nncf
from src.primitives.distributions import Global
from src.primitives.layers import without
from src.primitives.masks import require_more_zeros, sparsity
from src.primitives.operands import operator_weights
from src.primitives.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class PruneRegularized(Method):
    """Learn for each weight whether it stays, under a penalty on the number that stay, while the network is fine-tuned.

    NNCF holds a gate with a logit for each weight, opens and closes gates with noise, and penalizes a density that is
    not the schedule's. At the end the weights of the highest logits stay, exactly as many as the sparsity says; of
    equal logits the one with the lower index stays.

    The penalty's gradient is the same for all logits; the loss's gradient tells them apart. Both are brought to one
    size: the sign of the mean gradient moves all logits, the standardized rest moves each by itself. This keeps no
    state that an interruption could lose.

    Attributes:
        sparsity: Share of zeros over the prunable weights at the end, in (0, 1).
        schedule: Turns the share of the fine-tuning that is done, and the final sparsity, into the sparsity now.
        strength: Divisor in the penalty ``((density - wanted density) / strength)^2``, more than 0; the smaller it is,
            the stricter the penalty.
        swing: Half of how far a logit (4.6 at the start, pruned below 0) can move in all of the fine-tuning; above 0.
        ignored: Patterns of weight names that stay dense.
        fine_tune: How the network is trained while it learns which weights go; it cannot be None.

    Paper: Louizos et al. 2018, arXiv:1712.01312 (learned stochastic gates; NNCF's are not stretched). The way that
    logits move is this project's.
    """

    sparsity: float
    schedule: Schedule
    strength: float
    swing: float
    ignored: Sequence[str]
    fine_tune: Recipe

    makes = ("zeros",)

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity must be in (0, 1), and is {self.sparsity}")
        for name, value in {"strength": self.strength, "swing": self.swing}.items():
            if not value > 0:
                raise ValueError(f"{name} must be more than 0, and is {value}")
        if self.fine_tune is None:
            raise ValueError("fine_tune is missing: the network learns while it is trained which weights go")
        if self.fine_tune.keep != "last":
            raise ValueError("fine_tune.keep must be last: at an earlier epoch it is not yet learned which weights go")

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        """Prune ``model`` in place; raises ValueError if a pattern matches no weight."""
        every = sorted(operator_weights(model, context.example_input))
        names = without(every, self.ignored)
        gated = _nncf.attach_gates(copy.deepcopy(model), every)
        require_more_zeros({name: model.get_parameter(name) for name in names}, self.sparsity)
        for name, logits in _nncf.logits_of(gated).items():
            logits.requires_grad_(name in names)
        penalty = _nncf.DensityPenalty(gated, self.strength)
        context.fine_tune(
            gated,
            self.fine_tune,
            callbacks=[_LogitUpdate(self, names, penalty)],
            loss=_PenalizedLoss(self.fine_tune.loss, penalty),
        )
        learned = _nncf.logits_of(gated)
        model.load_state_dict(_nncf.plain_state(gated))
        masks = _keep_highest(model, {name: learned[name].detach() for name in names}, self.sparsity)
        return Compressed(model, claims={name: Claim(sparsity=sparsity({name: mask})) for name, mask in masks.items()})


@torch.no_grad()
def _keep_highest(model: nn.Module, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Set the weights of lowest score to zero, in place; those that are zero already count as the lowest.

    Returns:
        The masks (True = keep) by name.
    """
    ranked = {name: score.masked_fill(model.get_parameter(name) == 0, -torch.inf) for name, score in scores.items()}
    masks = Global()(ranked, sparsity)
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)
    return masks


class _PenalizedLoss:
    """A loss plus the penalty on the density; teachers of the loss stay in use."""

    def __init__(self, loss: Loss, penalty: Any) -> None:
        self.loss, self.penalty = loss, penalty

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        penalty: Tensor = self.penalty()
        return self.loss(logits, labels, images) + penalty

    @contextmanager
    def taught(self, student: nn.Module, before: nn.Module, example_input: Tensor) -> Iterator[Loss]:
        inner: Any = nullcontext(self.loss)
        if isinstance(self.loss, TaughtLoss):
            inner = self.loss.taught(student, before, example_input)
        with inner as bound:
            yield _PenalizedLoss(bound, self.penalty)


class _LogitUpdate(StepCallback):
    """Gives the penalty the schedule's sparsity, and moves the logits in place of the optimizer."""

    capturable = True

    def __init__(self, method: PruneRegularized, names: Sequence[str], penalty: Any) -> None:
        self.method, self.names, self.penalty = method, names, penalty
        self.progress = 0.0
        self.gradients: dict[str, Tensor] = {}

    def before_step(self, model: nn.Module, progress: float) -> None:
        self.progress = progress
        self.penalty.aim(self.method.schedule(progress, self.method.sparsity))

    def after_backward(self, model: nn.Module) -> None:
        for name, logits in _nncf.logits_of(model).items():
            if logits.grad is not None:
                self.gradients[name], logits.grad = logits.grad, None

    @torch.no_grad()
    def after_step(self, model: nn.Module, progress: float) -> None:
        distance = self.method.swing * (progress - self.progress)
        gradients = torch.cat([self.gradients[name].flatten() for name in self.names])
        mean, deviation = gradients.mean(), gradients.std().clamp(min=torch.finfo(gradients.dtype).tiny)
        logits = _nncf.logits_of(model)
        for name in self.names:
            standardized = ((self.gradients[name] - mean) / deviation).clamp(-3, 3)
            logits[name].sub_(distance * (mean.sign() + standardized) / 2)
