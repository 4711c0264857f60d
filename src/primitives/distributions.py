"""How a sparsity is spread over layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from src.primitives.layers import per_layer
from src.primitives.masks import keep_largest, kept
from src.primitives.sensitivity import read_sensitivity


class Distribution(Protocol):
    """Decides how a sparsity is spread over layers; an axis of every pruning method."""

    def __call__(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Turn scores and a sparsity into masks.

        Args:
            scores: Scores by name of a weight or group, any shapes; the higher survives.
            sparsity: Share of all scores whose mask is False, in [0, 1).

        Returns:
            Bool masks (True = keep) of the same names, order and shapes.
        """
        ...


class Global:
    """All weights compete: the lowest scores of the whole network go, in any layer.

    Paper: Frankle and Carbin 2019, arXiv:1803.03635, appendix I (global pruning of deep networks).
    """

    def __call__(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks by name; over all of them exactly ``sparsity`` (rounded to a weight).

        >>> Global()({"conv": torch.tensor([1.0, 2.0]), "fc": torch.tensor([3.0, 4.0])}, 0.5)
        {'conv': tensor([False, False]), 'fc': tensor([True, True])}
        """
        flat = torch.cat([score.flatten() for score in scores.values()])
        mask = keep_largest(flat, kept(flat.numel(), sparsity))
        parts = mask.split([score.numel() for score in scores.values()])
        return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


class Layerwise:
    """Each layer loses the same share of its weights, and keeps at least one.

    Paper: Han et al. 2015, arXiv:1506.02626, with one ratio for all layers.
    """

    def __call__(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks by name; in each exactly ``sparsity`` (rounded to a weight).

        >>> Layerwise()({"conv": torch.tensor([1.0, 2.0]), "fc": torch.tensor([3.0, 4.0])}, 0.5)
        {'conv': tensor([False,  True]), 'fc': tensor([False,  True])}
        """
        return {name: keep_largest(score, kept(score.numel(), sparsity)) for name, score in scores.items()}


@dataclass(frozen=True, kw_only=True)
class PerLayer:
    """Each layer has a ratio of its own; all ratios are scaled so that the whole sparsity is reached.

    Attributes:
        ratios: A layer's sparsity relative to that of the others, at least 0, by pattern of weight names; the first
            pattern that matches counts.
    """

    ratios: Mapping[str, float]

    def __post_init__(self) -> None:
        if any(not ratio >= 0 for ratio in self.ratios.values()) or not any(self.ratios.values()):
            raise ValueError(f"ratios must be at least 0, and not all 0; they are {dict(self.ratios)}")

    def __call__(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks by name; over all of them exactly ``sparsity`` (rounded to a weight).

        >>> scores = {"conv": torch.tensor([1.0, 2.0, 3.0, 4.0]), "fc": torch.tensor([1.0, 2.0, 3.0, 4.0])}
        >>> masks = PerLayer(ratios={"conv": 1.0, "*": 2.0})(scores, 0.375)  # a quarter of conv and half of fc
        >>> [int(mask.sum()) for mask in masks.values()]
        [3, 2]
        """
        ratios: dict[str, float] = per_layer(self.ratios, list(scores), "ratios")
        return _reach_by_curve(
            scores, sparsity, lambda name, strength: min(1.0, ratios[name] * strength), max_strength=1e6
        )


class BySensitivity:
    """Each layer has the sparsity at which it alone would lose as much validation accuracy as every other layer.

    Args:
        file: The ``sensitivity.json`` that ``python -m src.sensitivity`` wrote for the same network.

    Paper: Han et al. 2015, arXiv:1506.02626, section 4.1 (each layer's threshold by its sensitivity).
    """

    def __init__(self, *, file: str) -> None:
        record = read_sensitivity(file)
        base = record["accuracy"]
        self.curves = {name: _loss_curve(layer["sparsity"], base) for name, layer in record["layers"].items()}

    def __call__(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks by name; over all of them exactly ``sparsity`` (rounded to a weight)."""
        missing = [name for name in scores if name not in self.curves]
        if missing:
            raise ValueError(
                f"file: the sensitivity analysis has no measurements of {', '.join(missing)}: "
                f"run python -m src.sensitivity for this network"
            )
        return _reach_by_curve(scores, sparsity, self._largest_sparsity, max_strength=2.0)

    def _largest_sparsity(self, name: str, drop: float) -> float:
        """The largest sparsity up to which the layer's curve stays within an accuracy loss of ``drop``."""
        for (s0, d0), (s1, d1) in itertools.pairwise(self.curves[name]):
            if d1 > drop:
                return s0 + (s1 - s0) * max(0.0, drop - d0) / max(d1 - d0, 1e-12)
        return 1.0


def _loss_curve(accuracies: Mapping[str, float], base: float) -> list[tuple[float, float]]:
    """Points ``(sparsity, lost accuracy)`` from sparsity 0 to 1.

    Args:
        accuracies: Accuracy by sparsity, as measured.
        base: Accuracy of the unchanged network.
    """
    measured = sorted((float(sparsity), max(base - accuracy, 0.0)) for sparsity, accuracy in accuracies.items())
    return [(0.0, 0.0), *measured, (1.0, 1.0 + base)]


def _reach_by_curve(
    scores: dict[str, Tensor], sparsity: float, curve: Callable[[str, float], float], *, max_strength: float
) -> dict[str, Tensor]:
    """Give each layer the sparsity ``curve(name, strength)``, at the strength that gives ``sparsity`` over all.

    The strength is found by bisection; a curve must not fall as the strength grows.
    """
    counts = {name: score.numel() for name, score in scores.items()}
    kept_of_all = kept(sum(counts.values()), sparsity)

    def kept_at(strength: float) -> dict[str, int]:
        return {name: kept(count, curve(name, strength)) for name, count in counts.items()}

    low, high = 0.0, max_strength
    if sum(kept_at(high).values()) > kept_of_all:
        raise ValueError(f"sparsity {sparsity} cannot be reached with these ratios: {sum(kept_at(high).values())} stay")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(kept_at(middle).values()) <= kept_of_all else (middle, high)
    chosen, most = kept_at(high), kept_at(low)
    for name in chosen:  # the last few weights, which the last step of the bisection would remove together
        more = min(most[name] - chosen[name], kept_of_all - sum(chosen.values()))
        chosen[name] += max(0, more)
    return {name: keep_largest(score, chosen[name]) for name, score in scores.items()}
