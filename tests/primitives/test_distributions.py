"""How a sparsity is spread over layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from src.primitives.distributions import BySensitivity, Global, Layerwise, PerLayer
from src.primitives.masks import kept

HAND = {"a": torch.tensor([0.1, 0.8, 0.3, 0.6]), "b": torch.tensor([[0.9, 0.2], [0.7, 0.4]])}
BOTH = pytest.mark.parametrize("distribution", [Global(), Layerwise()], ids=["global", "layerwise"])


def drawn(seed: int) -> dict[str, Tensor]:
    """Three layers of other sizes and scales; scores of few values, so that they tie."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv": (4, 3, 3, 3), "dense": (10, 7), "bias": (5,)}
    return {
        name: torch.randint(6, shape, generator=generator).double() * scale
        for scale, (name, shape) in enumerate(shapes.items(), 1)
    }


def test_global_scope_keeps_the_largest_weights() -> None:
    masks = Global()(HAND, 0.5)
    assert masks["a"].tolist() == [False, True, False, True]
    assert masks["b"].tolist() == [[True, False], [True, False]]


def test_global_scope_may_take_everything_of_a_layer() -> None:
    masks = Global()({"weak": torch.tensor([0.1, 0.2]), "strong": torch.tensor([5.0, 6.0])}, 0.5)
    assert masks["weak"].tolist() == [False, False]
    assert masks["strong"].tolist() == [True, True]


def test_of_equal_scores_in_two_layers_those_of_the_first_layer_stay() -> None:
    masks = Global()({"first": torch.ones(3), "second": torch.ones(3)}, 0.5)
    assert masks["first"].tolist() == [True, True, True]
    assert masks["second"].tolist() == [False, False, False]


def test_layerwise_scope_takes_the_same_share_of_each_layer() -> None:
    masks = Layerwise()({"weak": torch.tensor([0.1, 0.2, 0.4, 0.3]), "strong": torch.tensor([5.0, 6.0])}, 0.5)
    assert masks["weak"].tolist() == [False, False, True, True]
    assert masks["strong"].tolist() == [False, True]


def test_layerwise_scope_keeps_at_least_one_weight_of_each_layer() -> None:
    masks = Layerwise()({"single": torch.tensor([0.1]), "four": torch.tensor([0.1, 0.2, 0.4, 0.3])}, 0.99)
    assert masks["single"].tolist() == [True]
    assert masks["four"].tolist() == [False, False, True, False]


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True))
def test_global_counts_are_exact_and_survivors_are_at_least_victims(seed: int, sparsity: float) -> None:
    scores = drawn(seed)
    masks = Global()(scores, sparsity)
    mask = torch.cat([masks[name].flatten() for name in scores])
    flat = torch.cat([score.flatten() for score in scores.values()])
    assert int(mask.sum()) == kept(flat.numel(), sparsity)
    assert mask.all() or flat[mask].min() >= flat[~mask].max()


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True))
def test_layerwise_counts_are_exact_and_survivors_are_at_least_victims(seed: int, sparsity: float) -> None:
    for name, mask in Layerwise()(scores := drawn(seed), sparsity).items():
        score = scores[name]
        assert int(mask.sum()) == kept(score.numel(), sparsity)
        assert mask.all() or score[mask].min() >= score[~mask].max()


@BOTH
@given(seed=st.integers(0, 1000), steps=st.lists(st.floats(0, 0.999), min_size=2, max_size=6))
def test_masks_nest_while_sparsity_grows(distribution: Global | Layerwise, seed: int, steps: list[float]) -> None:
    scores = drawn(seed)
    grown = [distribution(scores, sparsity) for sparsity in sorted(steps)]
    for before, after in zip(grown, grown[1:], strict=False):
        assert not any((after[name] & ~before[name]).any() for name in scores)


@BOTH
def test_masks_have_the_names_shapes_and_order_of_their_scores(distribution: Global | Layerwise) -> None:
    scores = drawn(0)
    masks = distribution(scores, 0.4)
    assert list(masks) == list(scores)
    assert [mask.shape for mask in masks.values()] == [score.shape for score in scores.values()]
    assert {mask.dtype for mask in masks.values()} == {torch.bool}


@BOTH
def test_a_sparsity_of_zero_keeps_everything(distribution: Global | Layerwise) -> None:
    assert all(bool(mask.all()) for mask in distribution(drawn(1), 0.0).values())


@BOTH
def test_nan_in_one_layer_is_refused(distribution: Global | Layerwise) -> None:
    with pytest.raises(ValueError, match="NaN"):
        distribution({"a": torch.ones(4), "b": torch.tensor([1.0, float("nan")])}, 0.5)


def uniform(**counts: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(count, generator=generator) for name, count in counts.items()}


@pytest.mark.parametrize("sparsity", [0.1, 0.37, 0.5, 0.88])
def test_ratios_of_layers_are_kept_and_the_whole_is_exact(sparsity: float) -> None:
    scores = uniform(first=1000, second=3000, third=500)
    masks = PerLayer(ratios={"first": 1.0, "second": 2.0, "*": 0.0})(scores, sparsity)
    gone = {name: int((~mask).sum()) for name, mask in masks.items()}
    assert sum(gone.values()) == round(sparsity * 4500)
    assert gone["third"] == 0
    if sparsity <= 0.37:
        assert gone["second"] / 3000 == pytest.approx(2 * gone["first"] / 1000, abs=0.002)
    for name, mask in masks.items():
        assert scores[name][mask].min() >= scores[name][~mask].max() if gone[name] else True


def test_a_sparsity_beyond_what_ratios_allow_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be reached"):
        PerLayer(ratios={"first": 1.0, "*": 0.0})(uniform(first=100, second=900), 0.5)
    with pytest.raises(ValueError, match="no weight is called frist"):
        PerLayer(ratios={"frist": 1.0, "*": 1.0})(uniform(first=100), 0.5)
    with pytest.raises(ValueError, match="ratios must be"):
        PerLayer(ratios={"first": 0.0})


def test_a_sensitive_layer_loses_less(tmp_path: Path) -> None:
    curves = {
        "robust": {"sparsity": {"0.5": 0.9, "0.9": 0.88}},
        "sensitive": {"sparsity": {"0.5": 0.7, "0.9": 0.1}},
    }
    file = tmp_path / "sensitivity.json"
    file.write_text(json.dumps({"accuracy": 0.9, "layers": curves}))
    scores = uniform(robust=2000, sensitive=2000)
    masks = BySensitivity(file=str(file))(scores, 0.5)
    gone = {name: int((~mask).sum()) for name, mask in masks.items()}
    assert sum(gone.values()) == 2000
    assert gone["robust"] / 2000 > 0.9 > 0.1 > gone["sensitive"] / 2000 > 0
    with pytest.raises(ValueError, match="has no measurements of other"):
        BySensitivity(file=str(file))(uniform(other=10), 0.5)


def test_a_file_that_is_no_analysis_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ValueError, match="is no sensitivity analysis"):
        BySensitivity(file=str(tmp_path / "x.json"))
    with pytest.raises(ValueError, match="cannot be read"):
        BySensitivity(file=str(tmp_path / "missing.json"))
