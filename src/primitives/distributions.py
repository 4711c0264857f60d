"""How a sparsity is dealt out over layers."""

from __future__ import annotations

import torch
from torch import Tensor

from src.primitives.masks import keep_largest, kept


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
