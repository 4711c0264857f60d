"""Weight sharing: a few values a layer, found by k-means and fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Context, NoEffectError, StepCallback
from src.primitives.codebooks import Start, fit_codebook, share
from src.primitives.folding import fold, fold_batch_norm
from src.primitives.keeping import MOST, label_members, member_sums, shared_values
from src.primitives.layers import per_layer, weight_names, without

MOST_BITS = MOST.bit_length() - 1


class Cluster:
    """Replace the weights of each layer by few values, then fine-tune these values.

    Batch normalization is folded first: folded later, as every export does, it would make a value of its own of each
    pair (value, channel). Zeros are a cluster of their own that nothing moves, so that sparsity survives.

    Args:
        clusters: Distinct values a layer may have, zero included; or one number for each pattern of weight names; None
            where ``bits`` says it.
        bits: The same as a power of two: ``2^bits`` values; None where ``clusters`` says it.
        start: Where centroids begin.
        iterations: Of Lloyd's algorithm, at most.
        ignored: Patterns of weight names that are left as they are.
        fine_tune: How centroids are trained, each by the summed gradient of its members; None leaves them. Not with
            SGD: a sum over thousands of members is thousands of times the step that its rate was chosen for. Adam's
            steps are of one size, whatever the gradient's.

    Paper: Han et al. 2016, arXiv:1510.00149, section 3.
    """

    makes = ("shared values",)

    def __init__(
        self,
        *,
        clusters: int | Mapping[str, int] | None,
        bits: int | Mapping[str, int] | None,
        start: Start,
        iterations: int,
        ignored: Sequence[str],
        fine_tune: Any,
    ) -> None:
        if (clusters is None) == (bits is None):
            raise ValueError("clusters or bits must be given, and the other one be null")
        if bits is not None:
            for count in bits.values() if isinstance(bits, Mapping) else [bits]:
                _require_whole("bits", count, MOST_BITS)
            clusters = {name: 2**n for name, n in bits.items()} if isinstance(bits, Mapping) else 2**bits
        assert clusters is not None
        for count in clusters.values() if isinstance(clusters, Mapping) else [clusters]:
            _require_whole("clusters", count, MOST)
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, and is {iterations}")
        if _is_sgd(getattr(fine_tune, "optimizer", None)):
            raise ValueError(
                "fine_tune.optimizer is SGD, whose steps the summed gradients of centroids make far too large: choose "
                "Adam (fine_tune_adam, or fine_tune_adam_distilled under teachers)"
            )
        self.clusters, self.start, self.iterations = clusters, start, iterations
        self.ignored, self.fine_tune = list(ignored), fine_tune
        self._folded: list[tuple[str, str]] = []

    def compress(self, model: nn.Module, context: Context) -> nn.Module:
        """Share weights; raises NoEffectError where every layer has no more values already."""
        names = without(weight_names(model), self.ignored)
        clusters = per_layer(self.clusters, names, "clusters")
        self._folded = fold_batch_norm(model.eval(), context.example_input)
        changed = 0
        for name in names:
            changed += self._share(name, model.get_parameter(name), clusters[name], context.seed)
        if not changed:
            raise NoEffectError("every layer has no more values than clusters asks for: nothing would be shared")
        if self.fine_tune is not None:
            context.fine_tune(model, self.fine_tune, callbacks=[SumOfMembers(model, names)])
        return model

    @torch.no_grad()
    def _share(self, name: str, weight: Tensor, clusters: int, seed: int) -> bool:
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

    def structure(self, model: nn.Module) -> dict[str, Any]:
        """The folded pairs."""
        return {"folded": [list(pair) for pair in self._folded]}

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Fold as recorded."""
        return fold(model.eval(), [(layer, norm) for layer, norm in structure["folded"]])


def _require_whole(name: str, count: Any, most: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"{name} must be a whole number from 1 to {most}, and is {count}")


def _is_sgd(optimizer: Any) -> bool:
    """Whether it is ``torch.optim.SGD`` or a partial of it."""
    made = getattr(optimizer, "func", optimizer)
    return isinstance(made, type) and issubclass(made, torch.optim.SGD)


class SumOfMembers(StepCallback):
    """Give each member of a cluster the gradient of its centroid, which is the sum over all members.

    Paper: Han et al. 2016, arXiv:1510.00149, equation 3.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.labels: dict[str, tuple[Tensor, int]] = {}
        for name in names:
            weight = model.get_parameter(name)
            values = shared_values(weight)
            if values is not None:
                self.labels[name] = (label_members(weight, values), len(values) + 1)

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        for name, (labels, count) in self.labels.items():
            gradient = model.get_parameter(name).grad
            if gradient is not None:
                labels = labels.to(gradient.device)
                self.labels[name] = (labels, count)
                gradient.copy_(member_sums(gradient, labels, count)[labels])
