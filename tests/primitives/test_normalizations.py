"""Normalized scores of different layers compare."""

from __future__ import annotations

import pytest
import torch

from src.primitives.normalizations import ByMean, ByNorm


def test_scores_divided_by_their_norm_or_mean_compare_between_layers() -> None:
    scores = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([300.0, -400.0]), "dead": torch.zeros(3)}
    by_norm, by_mean = ByNorm()(scores), ByMean()(scores)
    assert by_norm["a"].tolist() == pytest.approx([0.6, 0.8])
    assert by_norm["b"].tolist() == pytest.approx([0.6, -0.8])
    assert by_mean["b"].tolist() == pytest.approx([300 / 350, -400 / 350])
    assert by_norm["dead"].tolist() == by_mean["dead"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("normalization", [ByNorm(), ByMean()], ids=lambda one: type(one).__name__)
def test_the_order_within_a_group_and_the_order_of_groups_stay(normalization: ByNorm | ByMean) -> None:
    scores = {name: torch.randn(9, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("cab")}
    normalized = normalization(scores)
    assert list(normalized) == ["c", "a", "b"]
    for name, score in scores.items():
        assert torch.equal(normalized[name].argsort(), score.argsort())
