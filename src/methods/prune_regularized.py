"""Regularization-based pruning by NNCF: which weights go is learned beside the weights themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Context, Loss, StepCallback, TaughtLoss
from src.methods import _nncf
from src.primitives.layers import without
from src.primitives.masks import keep_largest, kept, require_more_zeros


class PruneRegularized:
    """Learn for each weight whether it stays, under a penalty on how many do, while the network is fine-tuned.

    NNCF holds a logit for each weight, masks by it with noise and penalises a density that is not the schedule's. At
    the end the weights of the highest logits stay, exactly as many as asked, ties by index.

    Args:
        sparsity: Share of zeros over all weights at the end, in (0, 1).
        schedule: Share of the fine-tuning done and the final sparsity to the sparsity now.
        strength: Of the penalty ``((density - asked) / strength)^2``, more than 0: the smaller the stricter.
        swing: How far a logit (4.6 at the start, pruned below 0) can move in the whole fine-tuning.
        ignored: Patterns of weight names that stay dense.
        fine_tune: How the network is trained meanwhile.

    The penalty's gradient is the same for all logits, the loss's tells them apart. Both are brought to one size: the
    sign of the mean moves all logits, the standardised rest each by itself. That keeps no state that a stop could lose.

    Paper: Louizos et al. 2018, arXiv:1712.01312 (learned stochastic gates; NNCF's have no stretching); how logits move
    is this project's.
    """

    makes = ("zeros",)

    def __init__(
        self,
        *,
        sparsity: float,
        schedule: Callable[[float, float], float],
        strength: float,
        swing: float,
        ignored: Sequence[str],
        fine_tune: Any,
    ) -> None:
        if not 0 < sparsity < 1:
            raise ValueError(f"sparsity must be in (0, 1), and is {sparsity}")
        for name, value in {"strength": strength, "swing": swing}.items():
            if not value > 0:
                raise ValueError(f"{name} must be more than 0, and is {value}")
        if fine_tune is None:
            raise ValueError("fine_tune is missing: what goes is learned while the network is trained")
        if getattr(fine_tune, "keep", "last") != "last":
            raise ValueError("fine_tune.keep must be last: an earlier epoch has not learned yet what goes")
        self.sparsity, self.schedule, self.strength, self.swing = sparsity, schedule, strength, swing
        self.ignored, self.fine_tune = list(ignored), fine_tune

    def compress(self, model: nn.Module, context: Context) -> nn.Module:
        """Prune ``model``; raises ValueError where a pattern matches no weight."""
        held = _nncf.hold_logits(copy.deepcopy(model), context.example_input)
        names = without(list(_nncf.logits_of(held)), self.ignored)
        require_more_zeros(_nncf.weights_of(model, names), self.sparsity)
        for name, logits in _nncf.logits_of(held).items():
            logits.requires_grad_(name in names)
        penalty = _nncf.density_penalty(held, self.strength)
        moving = _Logits(self, names, penalty)
        context.fine_tune(held, self.fine_tune, callbacks=[moving], loss=_Penalised(self.fine_tune.loss, penalty))
        scores = {name: _nncf.logits_of(held)[name].detach() for name in names}
        flat = torch.cat([score.flatten() for score in scores.values()])
        model.load_state_dict(_nncf.plain_state(held))
        zero = torch.cat([model.get_parameter(name).detach().flatten() == 0 for name in names])
        mask = keep_largest(flat.masked_fill(zero, -torch.inf), kept(flat.numel(), self.sparsity))
        with torch.no_grad():
            for name, part in zip(names, mask.split([scores[name].numel() for name in names]), strict=True):
                weight = model.get_parameter(name)
                weight.mul_(part.view_as(weight))
        return model


class _Penalised:
    """A loss and the density's penalty; teachers of the loss go on teaching."""

    def __init__(self, loss: Loss, penalty: Any) -> None:
        self.loss, self.penalty = loss, penalty

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        penalty: Tensor = self.penalty().to(logits.device)
        return self.loss(logits, labels, images) + penalty

    @contextmanager
    def taught(self, student: nn.Module, before: nn.Module, example_input: Tensor) -> Iterator[Loss]:
        inner: Any = nullcontext(self.loss)
        if isinstance(self.loss, TaughtLoss):
            inner = self.loss.taught(student, before, example_input)
        with inner as bound:
            yield _Penalised(bound, self.penalty)


class _Logits(StepCallback):
    """Tells the penalty of the schedule's sparsity and moves the logits, which the optimizer does not see."""

    def __init__(self, method: PruneRegularized, names: Sequence[str], penalty: Any) -> None:
        self.method, self.names, self.penalty = method, names, penalty
        self.progress = 0.0
        self.gradients: dict[str, Tensor] = {}

    def before_step(self, model: nn.Module, progress: float) -> None:
        self.progress = progress
        self.penalty.target_ratio = self.method.schedule(progress, self.method.sparsity)

    def after_backward(self, model: nn.Module) -> None:
        for name, logits in _nncf.logits_of(model).items():
            if logits.grad is not None:
                self.gradients[name], logits.grad = logits.grad, None

    @torch.no_grad()
    def after_step(self, model: nn.Module, progress: float) -> None:
        move = self.method.swing * (progress - self.progress)
        gradients = torch.cat([self.gradients[name].flatten() for name in self.names])
        mean, deviation = gradients.mean(), gradients.std().clamp(min=torch.finfo(gradients.dtype).tiny)
        logits = _nncf.logits_of(model)
        for name in self.names:
            apart = ((self.gradients[name] - mean) / deviation).clamp(-3, 3)
            logits[name].sub_(move * (mean.sign() + apart) / 2)
