"""How a sparsity is dealt out over layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from src.primitives.layers import per_layer
from src.primitives.masks import keep_largest, kept
from src.primitives.sensitivity import read_sensitivity


class Global:
    """All weights compete: the lowest scores of the whole network go, wherever they are.

    Paper: Frankle and Carbin 2019, arXiv:1803.03635, appendix I (global pruning of deep networks).
    """

    def __call__(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks by name, True where a weight stays; over all of them exactly ``sparsity`` (rounded to a weight)."""
        flat = torch.cat([score.flatten() for score in scores.values()])
        mask = keep_largest(flat, kept(flat.numel(), sparsity))
        parts = mask.split([score.numel() for score in scores.values()])
        return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


class Layerwise:
    """Each layer loses the same share of its weights, and keeps at least one.

    Paper: Han et al. 2015, arXiv:1506.02626, with one ratio for all layers.
    """

    def __call__(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks by name, True where a weight stays; in each exactly ``sparsity`` (rounded to a weight)."""
        return {name: keep_largest(score, kept(score.numel(), sparsity)) for name, score in scores.items()}


class PerLayer:
    """Ratios of its own for each layer; the sparsity asked as a whole scales them all.

    Args:
        ratios: Pattern of weight names to that layer's sparsity relative to the others', at least 0; the first that
            matches counts.
    """

    def __init__(self, *, ratios: Mapping[str, float]) -> None:
        if any(not ratio >= 0 for ratio in ratios.values()) or not any(ratios.values()):
            raise ValueError(f"ratios must be at least 0, and not all 0; they are {dict(ratios)}")
        self.ratios = dict(ratios)

    def __call__(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks by name, True where a weight stays; over all of them exactly ``sparsity`` (rounded to a weight)."""
        ratios: dict[str, float] = per_layer(self.ratios, list(scores), "ratios")
        return _by_curve(scores, sparsity, lambda name, strength: min(1.0, ratios[name] * strength), max_strength=1e6)


class BySensitivity:
    """Every layer loses as much as costs it the same validation accuracy alone.

    Args:
        file: The ``sensitivity.json`` that ``python -m src.sensitivity`` wrote for the same network.

    Paper: Han et al. 2015, arXiv:1506.02626, section 4.1 (each layer's threshold by its sensitivity).
    """

    def __init__(self, *, file: str) -> None:
        record = read_sensitivity(file)
        base = record["accuracy"]
        self.curves = {name: _curve(layer["sparsity"], base) for name, layer in record["layers"].items()}

    def __call__(self, scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Masks by name, True where a weight stays; over all of them exactly ``sparsity`` (rounded to a weight)."""
        missing = [name for name in scores if name not in self.curves]
        if missing:
            raise ValueError(f"file: the sensitivity analysis knows nothing of {', '.join(missing)}: make it anew")
        return _by_curve(scores, sparsity, self._bearable, max_strength=2.0)

    def _bearable(self, name: str, drop: float) -> float:
        """The largest sparsity below which no point of the layer's curve falls by more than ``drop``."""
        curve = self.curves[name]
        for (s0, d0), (s1, d1) in itertools.pairwise(curve):
            if d1 > drop:
                return s0 + (s1 - s0) * max(0.0, drop - d0) / max(d1 - d0, 1e-12)
        return 1.0


def _curve(accuracies: Mapping[str, float], base: float) -> list[tuple[float, float]]:
    """Sparsity and lost accuracy, from nothing to everything gone."""
    measured = sorted((float(sparsity), max(base - accuracy, 0.0)) for sparsity, accuracy in accuracies.items())
    return [(0.0, 0.0), *measured, (1.0, 1.0 + base)]


def _by_curve(
    scores: dict[str, Tensor], sparsity: float, curve: Callable[[str, float], float], *, max_strength: float
) -> dict[str, Tensor]:
    """Bisect the strength at which the layers' sparsities ``curve(name, strength)`` come to exactly ``sparsity``."""
    counts = {name: score.numel() for name, score in scores.items()}
    keep_of_all = kept(sum(counts.values()), sparsity)

    def keeps(strength: float) -> dict[str, int]:
        return {name: kept(count, curve(name, strength)) for name, count in counts.items()}

    low, high = 0.0, max_strength
    if sum(keeps(high).values()) > keep_of_all:
        raise ValueError(f"sparsity {sparsity} cannot be reached with these ratios: {sum(keeps(high).values())} stay")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(keeps(middle).values()) <= keep_of_all else (middle, high)
    chosen, most = keeps(high), keeps(low)
    for name in chosen:  # the last few, which a step of the bisection takes at once
        more = min(most[name] - chosen[name], keep_of_all - sum(chosen.values()))
        chosen[name] += max(0, more)
    return {name: keep_largest(score, chosen[name]) for name, score in scores.items()}
