"""Scores of weights."""

from __future__ import annotations

import torch
from torch import nn

from src.primitives.scores import Magnitude, magnitude_scores


def test_the_magnitude_of_four_weights_is_their_distance_from_zero() -> None:
    weights = torch.tensor([-2.0, 0.5, 0.0, 1.5])
    assert magnitude_scores(weights).tolist() == [2.0, 0.5, 0.0, 1.5]


def test_magnitude_equals_the_root_of_the_square() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(magnitude_scores(weight), weight.square().sqrt(), rtol=1e-15)


def test_scores_have_the_shape_of_their_weight_and_no_negative_entry() -> None:
    weight = -torch.ones(4, 3, 2, 2)
    assert magnitude_scores(weight).shape == (4, 3, 2, 2)
    assert bool((magnitude_scores(weight) >= 0).all())


def test_scores_are_cut_off_from_the_gradient() -> None:
    assert not magnitude_scores(nn.Parameter(torch.ones(4))).requires_grad


def test_the_weight_is_left_as_it_was() -> None:
    weight = torch.tensor([-2.0, 0.5, 0.0, 1.5])
    magnitude_scores(weight).fill_(9)
    assert weight.tolist() == [-2.0, 0.5, 0.0, 1.5]


def test_every_weight_is_scored_under_its_name() -> None:
    scores = Magnitude()({"a": torch.tensor([-1.0, 2.0]), "b": torch.tensor([[3.0], [-4.0]])})
    assert {name: score.tolist() for name, score in scores.items()} == {"a": [1.0, 2.0], "b": [[3.0], [4.0]]}
