"""Unstructured pruning: scores x distribution x schedule, each its own object."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Context, StepCallback
from src.methods import _nncf
from src.primitives.layers import without
from src.primitives.masks import require_more_zeros
from src.primitives.scores import Scores

Distribution = Callable[[dict[str, Tensor], float], dict[str, Tensor]]
Schedule = Callable[[float, float], float]


class Prune:
    """Set the weights of lowest score to zero while the network is fine-tuned.

    schedule -> sparsity; scores + sparsity -> masks. NNCF holds the masks and applies them in the forward pass; they
    are computed here, exactly, and multiplied into the weights at the end. A weight once removed stays removed.

    Args:
        sparsity: Share of zeros over the prunable weights at the end, in [0, 1) and more than they have already.
        scores: How much each weight matters; the higher survives.
        distribution: Scores and a sparsity to masks: global or layerwise.
        schedule: Share of the fine-tuning done and the final sparsity to the sparsity now.
        ignored: Patterns of weight names that stay dense, e.g. ``classifier.*``.
        batch_norm_batches: Calibration batches that adapt batch normalization where nothing is trained afterwards
            (training adapts it by itself, at every step under the masks of that step); 0 for none.
        fine_tune: How the network is trained meanwhile; None prunes at once (``OneShot``) and trains nothing.

    Paper: Han et al. 2015, arXiv:1506.02626; gradual: Zhu and Gupta 2017, arXiv:1710.01878.
    """

    makes = ("zeros",)

    def __init__(
        self,
        *,
        sparsity: float,
        scores: Scores,
        distribution: Distribution,
        schedule: Schedule,
        ignored: Sequence[str],
        batch_norm_batches: int,
        fine_tune: Any,
    ) -> None:
        if not 0 <= sparsity < 1:
            reason = ": a network with no weight left cannot be measured" if sparsity == 1 else ""
            raise ValueError(f"sparsity must be in [0, 1), and is {sparsity}{reason}")
        if batch_norm_batches < 0:
            raise ValueError(f"batch_norm_batches must be at least 0, and is {batch_norm_batches}")
        grows = schedule(0.0, sparsity) < sparsity
        if fine_tune is None and grows:
            raise ValueError(
                "schedule grows while the network is fine-tuned, and fine_tune is null: nothing would be trained "
                "meanwhile; choose src.primitives.schedules.OneShot"
            )
        if getattr(fine_tune, "keep", "last") == "best" and grows:
            raise ValueError("fine_tune.keep must be last where sparsity grows: the best epoch may be one less pruned")
        self.sparsity = sparsity
        self.scores, self.distribution, self.schedule = scores, distribution, schedule
        self.ignored = list(ignored)
        self.batch_norm_batches = batch_norm_batches
        self.fine_tune = fine_tune

    def compress(self, model: nn.Module, context: Context) -> nn.Module:
        """Prune ``model``; raises ValueError if that removes nothing or a pattern matches no weight."""
        held = _nncf.hold_masks(copy.deepcopy(model), context.example_input)
        names = without(list(_nncf.masks_of(held)), self.ignored)
        require_more_zeros(_nncf.weights_of(model, names), self.sparsity)
        masking = _Masking(self, names, model, context)
        if self.fine_tune is not None:
            context.fine_tune(held, self.fine_tune, callbacks=[masking])
        masking.update(held, self.sparsity)
        if self.fine_tune is None and self.batch_norm_batches:
            _nncf.adapt_batch_norm(held, (images for images, _ in context.calibration), self.batch_norm_batches)
        model.load_state_dict(_nncf.plain_state(held))
        masks = _nncf.masks_of(held)
        with torch.no_grad():
            for name in names:
                model.get_parameter(name).mul_(masks[name])
        return model


class _Masking(StepCallback):
    """Makes the masks anew whenever the schedule's sparsity has grown."""

    def __init__(self, method: Prune, names: Sequence[str], plain: nn.Module, context: Context) -> None:
        self.method, self.names, self.context = method, names, context
        self.plain = copy.deepcopy(plain)
        self.at = 0.0

    def before_step(self, model: nn.Module, progress: float) -> None:
        sparsity = self.method.schedule(progress, self.method.sparsity)
        if sparsity > self.at:
            self.update(model, sparsity)

    @torch.no_grad()
    def update(self, model: nn.Module, sparsity: float) -> None:
        """Write the masks of ``sparsity``; weights that are masked or zero already are the first to go."""
        masks = _nncf.masks_of(model)
        self.plain.to(next(model.parameters()).device).load_state_dict(_nncf.plain_state(model))
        for name, mask in masks.items():
            self.plain.get_parameter(name).mul_(mask)
        scores = self.method.scores(self.plain, self.names, self.context)
        ranked = {
            name: torch.where(masks[name] & (self.plain.get_parameter(name) != 0), score, -torch.inf)
            for name, score in scores.items()
        }
        for name, mask in self.method.distribution(ranked, sparsity).items():
            masks[name].copy_(mask)
        self.at = sparsity
