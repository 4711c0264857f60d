"""Structured pruning: whole channels are removed, and the network becomes a smaller one."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Compressed, Context, Method, Recipe
from src.methods import _nncf
from src.primitives.channels import PRODUCERS, Ties, give_shapes, remove_units, removes_cleanly, shapes_of
from src.primitives.costs import Cost
from src.primitives.distributions import Distribution
from src.primitives.layers import matching, refuse_shared
from src.primitives.masks import keep_largest
from src.primitives.normalizations import Normalization
from src.primitives.outputs import failing
from src.primitives.scores import Scores
from src.primitives.tying import tie_channels

Counts = dict[str, int]
ROUNDING = 1e-9  # relative difference of two costs that count as equal
NOT_FOLLOWED = "their channels flow through something that torch-pruning cannot follow"
NOT_CLEAN = (
    "without some of their channels the network fails, or computes something else (a weight used outside its layer, a "
    "shape written as a number, channels mixed by a function)"
)


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Method):
    """Remove the channels of lowest score until a share of the cost is removed.

    Channels that can only go together are one decision (a unit): those of layers that are added up, of a depthwise
    convolution and the layer before it, those at the same place in each group of a grouped convolution. A unit's score
    is the sum over the weights that produce its channels. Units that the same layers produce are a group, whose number
    of channels is rounded; the distribution spreads the removal over groups. The network's outputs are never removed.

    The removed cost is at least the wanted share, and as near to it as rounding allows: from the distribution's
    smallest sparsity that is enough, units are put back while the cost allows it, those of highest score first.

    Attributes:
        sparsity: Share of the cost that is removed, in [0, 1).
        cost: What the share is a share of: channels, MACs, parameters, bytes.
        scores: Says how much each weight matters; the higher survives.
        distribution: Turns scores by group name and a sparsity into masks: global or layerwise.
        normalization: Makes the scores of groups comparable; None leaves them as they are.
        round_to: A layer that loses channels keeps a multiple of this number, at least 1; a layer with no more channels
            than that loses none. 1 for no rounding.
        steps: Number of steps in which the share is removed, in equal parts of the cost; each step computes the scores
            again.
        ignored: Patterns of names of layers whose outputs all stay, e.g. ``features.0``.
        batch_norm_batches: Number of calibration batches that adapt batch normalization if nothing is trained
            afterwards; 0 for none.
        fine_tune: How the network is trained after each step; None trains nothing.

    Paper: Li et al. 2017, arXiv:1608.08710, section 3 (with magnitude scores, layerwise); Molchanov et al. 2017,
    arXiv:1611.06440 (with Taylor scores normalized by their norm, globally, in steps). Dependencies: Fang et al. 2023,
    arXiv:2301.12900. Scores are sums over weights in all of these.
    """

    sparsity: float
    cost: Cost
    scores: Scores
    distribution: Distribution
    normalization: Normalization | None
    round_to: int
    steps: int
    ignored: Sequence[str]
    batch_norm_batches: int
    fine_tune: Recipe | None

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            reason = ": a network with no channel left computes nothing" if self.sparsity == 1 else ""
            raise ValueError(f"sparsity must be in [0, 1), and is {self.sparsity}{reason}")
        _require_at_least(1, round_to=self.round_to, steps=self.steps)
        _require_at_least(0, batch_norm_batches=self.batch_norm_batches)

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        """Make a smaller network; ``model`` is left as it was.

        Raises:
            ValueError: The share is 0 or cannot be removed; a pattern matches no layer; two modules share a parameter;
                scores are not finite; torch-pruning cannot trace the network.
        """
        refuse_shared(model, [name for name, _ in model.named_parameters()], "removing channels would untie them")
        producers = [name for name, module in model.named_modules() if isinstance(module, PRODUCERS)]
        ignored = matching(producers, self.ignored, "ignored", "layer")
        if self.sparsity == 0:
            raise ValueError("sparsity is 0: nothing would be removed")
        model.eval()
        shapes, cost = shapes_of(model), self.cost(model, _on_device_of(model, context.example_input))
        removed = _RemovedChannels()
        left_alone: dict[str, str] = {}
        for step in range(1, self.steps + 1):
            ties = tie_channels(model, context.example_input, ignored)
            if ignored and not ties.groups:
                raise ValueError("ignored leaves no layer whose channels could go")
            ties, alone = _clean(model, ties, self.round_to, context.example_input)
            left_alone |= alone
            search = _Search(self, model, ties, context)
            search.require_reachable((1 - self.sparsity) * cost, cost, left_alone)
            units = search.units_to_remove((1 - self.sparsity * step / self.steps) * cost)
            if units:
                if not removes_cleanly(model, ties, units, context.example_input):
                    raise ValueError(
                        f"{', '.join(search.layers_of(units))} cannot lose channels: {NOT_CLEAN}; add them to ignored"
                    )
                removed.add(ties, units, search.scores)
                model = copy.deepcopy(model)
                remove_units(model, ties, units)
                if self.fine_tune is not None:
                    context.fine_tune(model, self.fine_tune)
                    model.eval()
        if self.fine_tune is None and self.batch_norm_batches:
            _nncf.adapt_batch_norm(model, context.calibration, self.batch_norm_batches)
        changed = {name: described for name, described in shapes_of(model).items() if described != shapes[name]}
        return Compressed(model, {"modules": changed, "removed": removed.by_layer()}, left_alone=left_alone)

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Give ``model`` the recorded shapes."""
        give_shapes(model, structure["modules"])
        return model


class _RemovedChannels:
    """Which channels were removed: their indices before this method, and their scores."""

    def __init__(self) -> None:
        self.entries: dict[str, list[tuple[int, float]]] = {}
        self.places: dict[str, list[int]] = {}  # the index before this method of each channel that a layer still has

    def add(self, ties: Ties, units: Collection[int], scores: Mapping[str, Tensor]) -> None:
        """Record the channels of ``units``; ``scores`` are those of each group's units."""
        score = {unit: float(s) for group in scores for unit, s in zip(ties.groups[group], scores[group], strict=True)}
        removed = set(units)
        for side in ties.sides:
            if side.produces and removed & set(side.units):
                places = self.places.get(side.module, list(range(len(side.units))))
                entries = [(places[index], score[unit]) for index, unit in enumerate(side.units) if unit in removed]
                self.entries.setdefault(side.module, []).extend(entries)
                kept = [places[index] for index, unit in enumerate(side.units) if unit not in removed]
                self.places[side.module] = kept

    def by_layer(self) -> dict[str, list[list[float]]]:
        """``[index, score]`` of each removed channel by layer name, as JSON can hold it."""
        return {name: [list(entry) for entry in sorted(entries)] for name, entries in self.entries.items()}


def _clean(model: nn.Module, ties: Ties, round_to: int, example_input: Tensor) -> tuple[Ties, dict[str, str]]:
    """Take out the groups whose channels cannot go; also returns the layers that must keep theirs, with the reason."""
    removable = {group: ties.groups[group][counts[0] :] for group, counts in _counts_by_group(ties, round_to).items()}

    def holds(groups: Sequence[str]) -> bool:
        return removes_cleanly(model, ties, [unit for group in groups for unit in removable[group]], example_input)

    alone = failing(list(removable), holds)
    if alone and not holds([group for group in removable if group not in alone]):
        alone = list(removable)
    left_alone = dict.fromkeys(ties.not_followed, NOT_FOLLOWED)
    left_alone |= {layer: NOT_CLEAN for group in alone for layer in ties.producers(group)}
    return replace(ties, groups={name: ties.groups[name] for name in ties.groups if name not in alone}), left_alone


class _Search:
    """Finds which units to remove: how many of each group, and of each group those of lowest score.

    ``Counts`` are numbers of units that stay, by group name.
    """

    def __init__(self, method: PruneChannels, model: nn.Module, ties: Ties, context: Context) -> None:
        self.method, self.model, self.ties = method, model, ties
        self.example_input = _on_device_of(model, context.example_input)
        self.allowed = _counts_by_group(ties, method.round_to)
        self.fewest = {group: counts[0] for group, counts in self.allowed.items()}
        self.all = {group: counts[-1] for group, counts in self.allowed.items()}
        self.scores = _unit_scores(method, model, ties, list(self.allowed), context)
        self.costs: dict[tuple[int, ...], float] = {}

    def require_reachable(self, budget: float, before: float, left_alone: Collection[str]) -> None:
        """Raise ValueError if no allowed removal brings the cost down to ``budget``.

        Args:
            budget: The wanted cost.
            before: The cost of the network as it came.
            left_alone: Layers whose channels cannot go, for the message.
        """
        least = self._cost(self.fewest)
        if least > budget * (1 + ROUNDING):
            what, round_to = type(self.method.cost).__name__.lower(), self.method.round_to
            alone = f"; {', '.join(left_alone)} must keep all channels" if left_alone else ""
            raise ValueError(
                f"sparsity {self.method.sparsity} of the {what} cannot be reached: {1 - least / before:.3f} is the "
                f"most, as each layer keeps at least {round_to} channels and a multiple of that (round_to){alone}"
            )

    def layers_of(self, units: Collection[int]) -> list[str]:
        """The layers that produce the channels of ``units``."""
        groups = [group for group, every in self.ties.groups.items() if set(every) & set(units)]
        return sorted({layer for group in groups for layer in self.ties.producers(group)})

    def units_to_remove(self, budget: float) -> set[int]:
        """The units to remove so that the cost is at most ``budget``; none if it is already."""
        return self._lowest_units(self._counts_within(budget * (1 + ROUNDING)))

    def _counts_within(self, budget: float) -> Counts:
        """Bisect the number of removed units over all groups, then refine between the last two answers."""
        total = sum(len(self.ties.groups[group]) for group in self.allowed)
        low, high = 0, total  # numbers of removed units: low is not enough, high is enough
        if self._cost(self.all) <= budget:
            return self.all
        while high - low > 1:
            middle = (low + high) // 2
            enough = self._cost(self._distributed(middle, total)) <= budget
            low, high = (low, middle) if enough else (middle, high)
        return self._refined(self._distributed(low, total), self._distributed(high, total), budget)

    def _distributed(self, removed: int, total: int) -> Counts:
        """The counts, rounded, if the distribution removes ``removed`` units of ``total``."""
        if removed == 0:
            return self.all
        if removed == total:
            return self.fewest
        masks = self.method.distribution(self.scores, removed / total)
        return {group: _nearest(int(masks[group].sum()), allowed) for group, allowed in self.allowed.items()}

    def _refined(self, more: Counts, less: Counts, budget: float) -> Counts:
        """Find counts between two answers: ``more`` costs too much, ``less`` is within the budget.

        A block is the units of a group between two neighbouring allowed counts. Blocks of lowest mean score are
        removed, as few as are enough.
        """
        blocks: list[tuple[float, str, int]] = []
        for group, allowed in self.allowed.items():
            falling = [count for count in reversed(allowed) if less[group] <= count < more[group]]
            blocks += [(self._block_score(group, count), group, count) for count in falling]
        blocks.sort(key=lambda block: block[0])
        few, many = 0, len(blocks)
        while many - few > 1:
            middle = (few + many) // 2
            enough = self._cost(_without_blocks(more, blocks[:middle])) <= budget
            few, many = (few, middle) if enough else (middle, many)
        return self._with_blocks_put_back(_without_blocks(more, blocks[:many]), budget)

    def _with_blocks_put_back(self, counts: Counts, budget: float) -> Counts:
        """Put blocks back, those of highest mean score first, while the cost stays within ``budget``."""
        open_groups = set(self.allowed)
        while open_groups:
            score, group = max((self._block_score(group, counts[group]), group) for group in open_groups)
            larger = {**counts, group: self._next_count(group, counts[group])}
            if score > -math.inf and self._cost(larger) <= budget:
                counts = larger
            else:
                open_groups.remove(group)
        return counts

    def _next_count(self, group: str, count: int) -> int:
        """The next larger allowed count; ``count`` if there is none."""
        return min((number for number in self.allowed[group] if number > count), default=count)

    def _block_score(self, group: str, count: int) -> float:
        """The mean score of the units between ``count`` and the next larger allowed count; -inf if there are none."""
        block = self.scores[group].sort(descending=True).values[count : self._next_count(group, count)]
        return float(block.mean()) if len(block) else -math.inf

    def _lowest_units(self, counts: Counts) -> set[int]:
        """The units of lowest score in each group, all but ``counts``."""
        lowest: set[int] = set()
        for group, count in counts.items():
            stays = keep_largest(self.scores[group], count).tolist()
            lowest |= {unit for unit, stay in zip(self.ties.groups[group], stays, strict=True) if not stay}
        return lowest

    def _cost(self, counts: Counts) -> float:
        """The cost if ``counts`` units of each group stay; it is computed once and remembered."""
        key = tuple(counts.values())
        if key not in self.costs:
            candidate = copy.deepcopy(self.model)
            remove_units(candidate, self.ties, self._lowest_units(counts))
            self.costs[key] = self.method.cost(candidate, self.example_input)
        return self.costs[key]


def _without_blocks(counts: Counts, blocks: Sequence[tuple[float, str, int]]) -> Counts:
    return {**counts, **{group: count for _, group, count in blocks}}


def _counts_by_group(ties: Ties, round_to: int) -> dict[str, list[int]]:
    """The allowed counts of each group that can lose a unit."""
    counts = {
        group: _allowed_counts(len(units), ties.producers(group).values(), round_to)
        for group, units in ties.groups.items()
    }
    return {group: allowed for group, allowed in counts.items() if len(allowed) > 1}


def _allowed_counts(units: int, channels: Collection[int], round_to: int) -> list[int]:
    """How many units of a group may stay, ascending: all, or a number that leaves its layers multiples of ``round_to``.

    Args:
        units: Number of units in the group.
        channels: Number of channels that a unit has in each of the group's layers.
        round_to: At least 1.
    """
    step = math.lcm(*(round_to // math.gcd(round_to, count) for count in channels))
    return [*range(step, units, step), units]


def _nearest(count: int, allowed: Sequence[int]) -> int:
    """The allowed count that is nearest to ``count``; of two that are equally near, the larger."""
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
    weight_scores = method.scores(model, list(names.values()), context)
    totals = torch.zeros(1 + max(wanted | {max(side.units) for side in sides.values()}), dtype=torch.float64)
    for layer, side in sides.items():
        channels = weight_scores[names[layer]].detach().double().cpu().flatten(1).sum(1)
        units = torch.tensor(side.units)
        totals.index_add_(0, units[units >= 0], channels[units >= 0])
    scores = {group: totals[list(ties.groups[group])] for group in groups}
    scores = scores if method.normalization is None else method.normalization(scores)
    for group, score in scores.items():
        if not bool(score.isfinite().all()):
            raise ValueError(f"the scores of {group} are not all finite numbers: nothing can be ranked")
    return scores


def _require_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, and is {value}")


def _on_device_of(model: nn.Module, example_input: Tensor) -> Tensor:
    return example_input.to(next(model.parameters()).device)
