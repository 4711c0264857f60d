"""Structured pruning: whole channels are really removed, and the network is a smaller one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Context
from src.methods import _nncf
from src.primitives.channels import (
    PRODUCERS,
    Ties,
    give_shapes,
    remove_units,
    removes_cleanly,
    shapes_of,
    tie_channels,
)
from src.primitives.costs import Cost
from src.primitives.layers import matching, refuse_shared
from src.primitives.masks import keep_largest
from src.primitives.normalizations import Normalization
from src.primitives.scores import Scores

Distribution = Callable[[dict[str, Tensor], float], dict[str, Tensor]]
Counts = dict[str, int]
ROUNDING = 1e-9  # of a cost, relative: floats that should be equal


class PruneChannels:
    """Remove the channels of lowest score until a share of the cost is gone.

    Channels that can only go together are one decision (a unit): layers that are added up, a depthwise convolution and
    the layer before it, the same place in each group of a grouped convolution. A unit's score is the sum over the
    weights that produce its channels. Units that the same layers produce are a group, whose number of channels is
    rounded; the distribution deals the removal out over groups. The network's outputs are never touched.

    The removed cost is at least the share asked, and as near to it as rounding allows: the distribution's smallest
    sparsity that is enough, less what can be put back of it, highest scores first.

    Args:
        sparsity: Share of the cost that is removed, in [0, 1).
        cost: What it is a share of: channels, MACs, parameters, bytes.
        scores: How much each weight matters; the higher survives.
        distribution: Scores by group name and a sparsity to masks: global or layerwise.
        normalization: Makes the scores of groups comparable; None leaves them.
        round_to: Each layer that loses channels keeps a multiple of so many, and at least so many; a layer with no
            more than that loses none. 1 for no rounding.
        steps: In how many the share is removed, equal parts of the cost; scores are computed anew in each.
        ignored: Patterns of names of layers whose outputs all stay, e.g. ``features.0``.
        batch_norm_batches: Calibration batches that adapt batch normalization where nothing is trained afterwards; 0
            for none.
        fine_tune: How the network is trained after each step; None trains nothing.

    Paper: Li et al. 2017, arXiv:1608.08710, section 3 (with magnitude scores, layerwise); Molchanov et al. 2017,
    arXiv:1611.06440 (with Taylor scores normalized by their norm, globally, in steps). Dependencies: Fang et al. 2023,
    arXiv:2301.12900. Scores are sums over weights in all of these.
    """

    def __init__(
        self,
        *,
        sparsity: float,
        cost: Cost,
        scores: Scores,
        distribution: Distribution,
        normalization: Normalization | None,
        round_to: int,
        steps: int,
        ignored: Sequence[str],
        batch_norm_batches: int,
        fine_tune: Any,
    ) -> None:
        if not 0 <= sparsity < 1:
            reason = ": a network with no channel left computes nothing" if sparsity == 1 else ""
            raise ValueError(f"sparsity must be in [0, 1), and is {sparsity}{reason}")
        _require_least(1, round_to=round_to, steps=steps)
        _require_least(0, batch_norm_batches=batch_norm_batches)
        self.sparsity, self.cost, self.scores = sparsity, cost, scores
        self.distribution, self.normalization = distribution, normalization
        self.round_to, self.steps = round_to, steps
        self.ignored = list(ignored)
        self.batch_norm_batches = batch_norm_batches
        self.fine_tune = fine_tune
        self._changed: list[str] = []
        self._removed: dict[str, list[tuple[int, float]]] = {}

    def compress(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a smaller network; ``model`` is left as it was.

        Raises:
            ValueError: The share is 0 or cannot be removed; a pattern matches no layer; two modules share a parameter;
                scores are not finite; the network uses channels in a way that does not survive their removal.
        """
        refuse_shared(model, [name for name, _ in model.named_parameters()], "removing channels would untie them")
        producers = [name for name, module in model.named_modules() if isinstance(module, PRODUCERS)]
        ignored = matching(producers, self.ignored, "ignored", "layer")
        if self.sparsity == 0:
            raise ValueError("sparsity is 0: nothing would be removed")
        model.eval()
        shapes, before = shapes_of(model), self.cost(model, _on_device_of(model, context.example_input))
        places: dict[str, list[int]] = {}
        self._removed = {}
        for step in range(1, self.steps + 1):
            ties = tie_channels(model, context.example_input, ignored)
            if ignored and not ties.groups:
                raise ValueError("ignored leaves no layer whose channels could go")
            search = _Search(self, model, ties, context)
            self._require_clean(model, ties, search.most, context.example_input)
            search.require((1 - self.sparsity) * before, before)
            units = search.units((1 - self.sparsity * step / self.steps) * before)
            if units:
                self._require_clean(model, ties, units, context.example_input)
                self._note(ties, units, search.scores, places)
                model = copy.deepcopy(model)
                remove_units(model, ties, units)
                if self.fine_tune is not None:
                    context.fine_tune(model, self.fine_tune)
                    model.eval()
        if self.fine_tune is None and self.batch_norm_batches:
            _nncf.adapt_batch_norm(model, (images for images, _ in context.calibration), self.batch_norm_batches)
        self._changed = [name for name, described in shapes_of(model).items() if described != shapes[name]]
        return model

    def structure(self, model: nn.Module) -> dict[str, Any]:
        """The new shapes, and by layer which channels went: their indices before this method, and their scores."""
        shapes = shapes_of(model)
        removed = {name: [list(entry) for entry in sorted(gone)] for name, gone in self._removed.items()}
        return {"modules": {name: shapes[name] for name in self._changed}, "removed": removed}

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Give ``model`` the recorded shapes."""
        give_shapes(model, structure["modules"])
        self._changed = list(structure["modules"])
        self._removed = {name: [(at, score) for at, score in gone] for name, gone in structure["removed"].items()}
        return model

    def _require_clean(self, model: nn.Module, ties: Ties, units: Collection[int], example_input: Tensor) -> None:
        if removes_cleanly(model, ties, units, example_input):
            return
        parts = {group: set(units) & set(every) for group, every in ties.groups.items()}
        blamed = [g for g, part in parts.items() if part and not removes_cleanly(model, ties, part, example_input)]
        layers = sorted({layer for group in blamed or parts for layer in ties.producers(group)})
        raise ValueError(
            f"the network does not work without channels of {', '.join(layers)}: it fails, or computes something else "
            f"(a weight used outside its layer, a shape written as a number, channels mixed by a function); add these "
            f"layers to ignored"
        )

    def _note(
        self, ties: Ties, units: Collection[int], scores: Mapping[str, Tensor], places: dict[str, list[int]]
    ) -> None:
        """Write down which channels go; ``places`` holds the original index of each that a layer still has."""
        score = {unit: float(s) for group in scores for unit, s in zip(ties.groups[group], scores[group], strict=True)}
        gone = set(units)
        for side in ties.sides:
            if side.produces and gone & set(side.units):
                at = places.get(side.module, list(range(len(side.units))))
                entries = [(at[index], score[unit]) for index, unit in enumerate(side.units) if unit in gone]
                self._removed.setdefault(side.module, []).extend(entries)
                places[side.module] = [at[index] for index, unit in enumerate(side.units) if unit not in gone]


class _Search:
    """Finds what goes: how many units of each group, and in it those of lowest score."""

    def __init__(self, method: PruneChannels, model: nn.Module, ties: Ties, context: Context) -> None:
        self.method, self.model, self.ties = method, model, ties
        self.example_input = _on_device_of(model, context.example_input)
        allowed = {
            group: _allowed(len(units), ties.producers(group).values(), method.round_to)
            for group, units in ties.groups.items()
        }
        self.allowed = {group: counts for group, counts in allowed.items() if len(counts) > 1}
        self.scores = _unit_scores(method, model, ties, list(self.allowed), context)
        self.known: dict[tuple[int, ...], float] = {}

    @property
    def most(self) -> set[int]:
        """All units that may go together."""
        return self._lowest({group: allowed[0] for group, allowed in self.allowed.items()})

    def require(self, budget: float, before: float) -> None:
        """Raise ValueError where nothing that may be removed brings the cost down to ``budget``."""
        least = self._cost({group: allowed[0] for group, allowed in self.allowed.items()})
        if least > budget * (1 + ROUNDING):
            what, round_to = type(self.method.cost).__name__.lower(), self.method.round_to
            raise ValueError(
                f"sparsity {self.method.sparsity} of the {what} cannot be reached: {1 - least / before:.3f} is the "
                f"most, as each layer keeps at least {round_to} channels and a multiple of that (round_to)"
            )

    def units(self, budget: float) -> set[int]:
        """The units to remove so that the cost is at most ``budget``; none where it is already."""
        return self._lowest(self._counts(budget * (1 + ROUNDING)))

    def _counts(self, budget: float) -> Counts:
        total = sum(len(self.ties.groups[group]) for group in self.allowed)
        low, high = 0, total  # removed of all: low is too little, high is enough
        if self._cost(self._dealt(low, total)) <= budget:
            return self._dealt(low, total)
        while high - low > 1:
            middle = (low + high) // 2
            enough = self._cost(self._dealt(middle, total)) <= budget
            low, high = (low, middle) if enough else (middle, high)
        return self._last_blocks(self._dealt(low, total), self._dealt(high, total), budget)

    def _dealt(self, removed: int, total: int) -> Counts:
        """How many units of each group stay when the distribution removes ``removed`` of all, rounded."""
        if removed in (0, total):
            return {group: allowed[-1 if removed == 0 else 0] for group, allowed in self.allowed.items()}
        masks = self.method.distribution(self.scores, removed / total)
        return {group: _nearest(int(masks[group].sum()), allowed) for group, allowed in self.allowed.items()}

    def _last_blocks(self, more: Counts, less: Counts, budget: float) -> Counts:
        """Of the blocks of units between two answers, remove those of lowest mean score, as few as are enough."""
        blocks: list[tuple[float, str, int]] = []
        for group, allowed in self.allowed.items():
            falling = [count for count in reversed(allowed) if less[group] <= count < more[group]]
            blocks += [(self._next_score(group, count), group, count) for count in falling]
        blocks.sort(key=lambda block: block[0])
        few, many = 0, len(blocks)
        while many - few > 1:
            middle = (few + many) // 2
            enough = self._cost(_without(more, blocks[:middle])) <= budget
            few, many = (few, middle) if enough else (middle, many)
        return self._given_back(_without(more, blocks[:many]), budget)

    def _given_back(self, counts: Counts, budget: float) -> Counts:
        """Put blocks back, those of highest mean score first, while the cost stays within ``budget``."""
        open_groups = set(self.allowed)
        while open_groups:
            score, group = max((self._next_score(group, counts[group]), group) for group in open_groups)
            back = {**counts, group: self._next(group, counts[group])}
            if score > -math.inf and self._cost(back) <= budget:
                counts = back
            else:
                open_groups.remove(group)
        return counts

    def _next(self, group: str, count: int) -> int:
        """The next larger number of units that may stay; ``count`` where that is all."""
        return min((number for number in self.allowed[group] if number > count), default=count)

    def _next_score(self, group: str, count: int) -> float:
        """The mean score of the units that go when ``count`` stay, and would stay with the next larger number."""
        block = self.scores[group].sort(descending=True).values[count : self._next(group, count)]
        return float(block.mean()) if len(block) else -math.inf

    def _lowest(self, counts: Counts) -> set[int]:
        """The units of lowest score that go when so many of each group stay."""
        gone: set[int] = set()
        for group, count in counts.items():
            stays = keep_largest(self.scores[group], count).tolist()
            gone |= {unit for unit, stay in zip(self.ties.groups[group], stays, strict=True) if not stay}
        return gone

    def _cost(self, counts: Counts) -> float:
        key = tuple(counts.values())
        if key not in self.known:
            candidate = copy.deepcopy(self.model)
            remove_units(candidate, self.ties, self._lowest(counts))
            self.known[key] = self.method.cost(candidate, self.example_input)
        return self.known[key]


def _without(counts: Counts, blocks: Sequence[tuple[float, str, int]]) -> Counts:
    return {**counts, **{group: count for _, group, count in blocks}}


def _allowed(units: int, channels: Collection[int], round_to: int) -> list[int]:
    """How many units of a group may stay, ascending: all, or so many that its layers keep multiples of ``round_to``.

    Args:
        units: Of the group.
        channels: Of each of its layers in a unit.
        round_to: At least 1.
    """
    step = math.lcm(*(round_to // math.gcd(round_to, count) for count in channels))
    return [*range(step, units, step), units]


def _nearest(count: int, allowed: Sequence[int]) -> int:
    """The number nearest to ``count``; of two the larger."""
    return min(allowed, key=lambda number: (abs(number - count), -number))


def _unit_scores(
    method: PruneChannels, model: nn.Module, ties: Ties, groups: Collection[str], context: Context
) -> dict[str, Tensor]:
    """The scores of each group's units, float64 on the CPU: sums over the weights that produce their channels."""
    wanted = {unit for group in groups for unit in ties.groups[group]}
    sides = {side.module: side for side in ties.sides if side.produces and wanted & set(side.units)}
    if not sides:
        return {}
    names = {layer: f"{layer}.weight".lstrip(".") for layer in sides}
    of_weights = method.scores(model, list(names.values()), context)
    totals = torch.zeros(1 + max(wanted | {max(side.units) for side in sides.values()}), dtype=torch.float64)
    for layer, side in sides.items():
        channels = of_weights[names[layer]].detach().double().cpu().flatten(1).sum(1)
        units = torch.tensor(side.units)
        totals.index_add_(0, units[units >= 0], channels[units >= 0])
    scores = {group: totals[list(ties.groups[group])] for group in groups}
    scores = scores if method.normalization is None else method.normalization(scores)
    for group, score in scores.items():
        if not bool(score.isfinite().all()):
            raise ValueError(f"the scores of {group} are not all finite numbers: nothing can be ranked")
    return scores


def _require_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, and is {value}")


def _on_device_of(model: nn.Module, example_input: Tensor) -> Tensor:
    return example_input.to(next(model.parameters()).device)
