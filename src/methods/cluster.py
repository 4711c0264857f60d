"""Weight sharing: a few values for each layer, found by k-means and fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Claim, Compressed, Context, Method, NoEffectError, Recipe, StepCallback
from src.primitives.codebooks import Start, fit_codebook, share
from src.primitives.folding import fold, fold_batch_norm
from src.primitives.keeping import MOST_VALUES, Members
from src.primitives.layers import per_layer, without
from src.primitives.operands import operator_weights

MOST_BITS = MOST_VALUES.bit_length() - 1


@dataclass(frozen=True, kw_only=True)
class Cluster(Method):
    """Replace the weights of each layer by a few values, then fine-tune these values.

    Batch normalization is folded first. If it were folded later, as every export does, each pair (value, channel)
    would become a value of its own. Zeros are a cluster of their own that nothing moves, so sparsity is kept.

    Attributes:
        clusters: Number of distinct values of a layer, zero included; or one number for each pattern of weight names;
            None if ``bits`` is given.
        bits: The same as a power of two: ``2^bits`` values; None if ``clusters`` is given.
        start: Chooses the first centroids.
        iterations: The most iterations of Lloyd's algorithm, at least 1.
        ignored: Patterns of weight names that are left as they are.
        fine_tune: How centroids are trained, each by the summed gradient of its members; None leaves them. SGD is
            refused: a sum over thousands of members is a step thousands of times as large as its learning rate was
            chosen for. Adam's steps have one size, whatever the size of the gradient.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.
    """

    clusters: int | Mapping[str, int] | None
    bits: int | Mapping[str, int] | None
    start: Start
    iterations: int
    ignored: Sequence[str]
    fine_tune: Recipe | None

    makes = ("shared values",)

    def __post_init__(self) -> None:
        if (self.clusters is None) == (self.bits is None):
            raise ValueError("clusters or bits must be given, and the other one be null")
        for count in self.bits.values() if isinstance(self.bits, Mapping) else [self.bits]:
            _require_count("bits", count, MOST_BITS)
        for count in self.clusters.values() if isinstance(self.clusters, Mapping) else [self.clusters]:
            _require_count("clusters", count, MOST_VALUES)
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, and is {self.iterations}")
        if self.fine_tune is not None and _is_sgd(self.fine_tune.optimizer):
            raise ValueError(
                "fine_tune.optimizer is SGD, whose steps the summed gradients of centroids make far too large: choose "
                "Adam (fine_tune_adam, or fine_tune_adam_distilled under teachers)"
            )

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        """Share weights, in place.

        Raises:
            NoEffectError: No layer has more values than it may have.
            ValueError: A pattern matches nothing, or a layer with zeros may have only one value.
        """
        names = without(operator_weights(model, context.example_input), self.ignored)
        counts = self._value_counts(names)
        folded = fold_batch_norm(model.eval(), context.example_input)
        changed = [self._share(name, model.get_parameter(name), counts[name], context.seed) for name in names]
        if not any(changed):
            raise NoEffectError("every layer has no more values than clusters asks for: nothing would be shared")
        if self.fine_tune is not None:
            context.fine_tune(model, self.fine_tune, callbacks=[SumOfMembers(model, names)])
        claims = {name: Claim(values=count) for name, count in counts.items()}
        return Compressed(model, {"folded": [list(pair) for pair in folded]}, claims)

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Fold batch normalization as recorded."""
        return fold(model.eval(), structure["folded"])

    def _value_counts(self, names: Sequence[str]) -> dict[str, int]:
        """The number of distinct values that each weight may have."""
        if self.bits is None:
            assert self.clusters is not None
            return per_layer(self.clusters, names, "clusters")
        bits: dict[str, int] = per_layer(self.bits, names, "bits")
        return {name: 2**count for name, count in bits.items()}

    @torch.no_grad()
    def _share(self, name: str, weight: Tensor, clusters: int, seed: int) -> bool:
        """Replace the values of a weight in place by ``clusters`` ones; return whether that changed any."""
        zero = weight == 0
        left = clusters - bool(zero.any())
        values = weight[~zero]
        if left < 1 and values.numel():
            raise ValueError(f"clusters of {name} is {clusters}, and its zeros take one: at least 2 are needed")
        if values.numel() <= left:
            return False
        codebook = fit_codebook(values, left, self.start, iterations=self.iterations, seed=seed)
        before = weight.clone()
        weight.copy_(share(weight, codebook).masked_fill_(zero, 0.0))
        return not torch.equal(before, weight)


def _require_count(name: str, count: Any, most: int) -> None:
    """Raise ValueError unless ``count`` is None or a whole number from 1 to ``most``."""
    if count is None:
        return
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"{name} must be a whole number from 1 to {most}, and is {count}")


def _is_sgd(optimizer: Any) -> bool:
    """Whether it is ``torch.optim.SGD`` or a partial of it."""
    optimizer_class = optimizer.func if isinstance(optimizer, partial) else optimizer
    return isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.SGD)


class SumOfMembers(StepCallback):
    """Gives each member of a cluster the gradient of its centroid, which is the sum over all members.

    Args:
        model: Its weights share values, as they are now.
        names: Names of the weights.

    Paper: Han et al. 2016, arXiv:1510.00149, equation 3.
    """

    capturable = True

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.members: dict[str, Members] = {}
        for name in names:
            weight = model.get_parameter(name)
            values = torch.unique(weight.detach()[weight != 0])
            if 0 < len(values) <= MOST_VALUES:
                self.members[name] = Members(weight, values)

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        for name, members in self.members.items():
            gradient = model.get_parameter(name).grad
            if gradient is not None:
                members.to(gradient.device)
                gradient.copy_(members.shared(members.sums(gradient)))
