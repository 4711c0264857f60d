"""Unstructured pruning: scores x distribution x schedule, each an object of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from src.contracts import Claim, Compressed, Context, Method, Recipe, StepCallback
from src.methods import _nncf
from src.primitives.distributions import Distribution
from src.primitives.layers import without
from src.primitives.masks import require_more_zeros, sparsity
from src.primitives.operands import operator_weights
from src.primitives.schedules import Schedule
from src.primitives.scores import Scores


@dataclass(frozen=True, kw_only=True)
class Prune(Method):
    """Set the weights of lowest score to zero while the network is fine-tuned.

    schedule -> sparsity; scores + sparsity -> masks. NNCF holds the masks and applies them in the forward pass; they
    are computed here, exactly, and multiplied into the weights at the end. A removed weight stays removed.

    Attributes:
        sparsity: Share of zeros over the prunable weights at the end, in [0, 1) and more than they have already.
        scores: Says how much each weight matters; the higher survives.
        distribution: Turns scores and a sparsity into masks: global or layerwise.
        schedule: Turns the share of the fine-tuning that is done, and the final sparsity, into the sparsity now.
        ignored: Patterns of weight names that stay dense, e.g. ``classifier.*``.
        batch_norm_batches: Number of calibration batches that adapt batch normalization if nothing is trained (training
            adapts it by itself, at every step under the masks of that step); 0 for none.
        fine_tune: How the network is trained while sparsity grows; None prunes at once (``OneShot``), without training.

    Paper: Han et al. 2015, arXiv:1506.02626; gradual: Zhu and Gupta 2017, arXiv:1710.01878.
    """

    sparsity: float
    scores: Scores
    distribution: Distribution
    schedule: Schedule
    ignored: Sequence[str]
    batch_norm_batches: int
    fine_tune: Recipe | None

    makes = ("zeros",)

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            reason = ": a network with no weight left cannot be measured" if self.sparsity == 1 else ""
            raise ValueError(f"sparsity must be in [0, 1), and is {self.sparsity}{reason}")
        if self.batch_norm_batches < 0:
            raise ValueError(f"batch_norm_batches must be at least 0, and is {self.batch_norm_batches}")
        grows = self.schedule(0.0, self.sparsity) < self.sparsity
        if grows and self.fine_tune is None:
            raise ValueError(
                "schedule grows while the network is fine-tuned, and fine_tune is null: nothing would be trained; "
                "choose src.primitives.schedules.OneShot"
            )
        if grows and self.fine_tune is not None and self.fine_tune.keep == "best":
            raise ValueError(
                "fine_tune.keep must be last if sparsity grows: the best epoch may be one that is less pruned"
            )

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        """Prune ``model`` in place.

        Raises:
            ValueError: Nothing or everything would be removed, or a pattern matches no weight.
        """
        names = without(sorted(operator_weights(model, context.example_input)), self.ignored)
        masked = _nncf.attach_masks(copy.deepcopy(model), names)
        require_more_zeros({name: model.get_parameter(name) for name in names}, self.sparsity)
        masking = _Masking(self, names, model, context)
        if self.fine_tune is not None:
            context.fine_tune(masked, self.fine_tune, callbacks=[masking])
        masking.update(masked, self.sparsity)
        if self.fine_tune is None and self.batch_norm_batches:
            _nncf.adapt_batch_norm(masked, context.calibration, self.batch_norm_batches)
        masks = _nncf.masks_of(masked)
        claims = {name: Claim(sparsity=sparsity({name: masks[name]})) for name in names}
        return Compressed(_nncf.bake_masks(masked, model), claims=claims)


class _Masking(StepCallback):
    """Computes new masks whenever the schedule's sparsity has grown.

    Args:
        method: Its schedule, scores and distribution are used.
        names: Names of the weights that are pruned.
        model: The network without masks; it is left as it was.
        context: What the scores need.
    """

    capturable = True  # new masks are written into the old ones' place, on the host, between two steps

    def __init__(self, method: Prune, names: Sequence[str], model: nn.Module, context: Context) -> None:
        self.method, self.names, self.context = method, names, context
        self.pruned = copy.deepcopy(model)
        self.sparsity = 0.0

    def before_step(self, model: nn.Module, progress: float) -> None:
        sparsity = self.method.schedule(progress, self.method.sparsity)
        if sparsity > self.sparsity:
            self.update(model, sparsity)

    @torch.no_grad()
    def update(self, masked: nn.Module, sparsity: float) -> None:
        """Give ``masked`` the masks of ``sparsity``."""
        pruned = _nncf.bake_masks(masked, self.pruned)
        scores = self.method.scores(pruned, self.names, self.context)
        masks = self.method.distribution(_zeros_lowest(scores, pruned), sparsity)
        _nncf.set_masks(masked, masks)
        self.sparsity = sparsity


def _zeros_lowest(scores: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Scores in which weights that are zero already have the lowest score, so that these are removed first."""
    return {name: score.masked_fill(model.get_parameter(name) == 0, -torch.inf) for name, score in scores.items()}
