"""Scores of weights are what their papers say, written out slowly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from src.contracts import Context
from src.primitives.distributions import Global
from src.primitives.scores import (
    Fisher,
    Hessian,
    Magnitude,
    Random,
    Scores,
    Taylor,
    curvature_scores,
    hessian_diagonal,
    magnitude_scores,
    taylor_scores,
)
from src.training.losses import CrossEntropy
from tests.primitives.foreign import IMAGE, Transformer

NAMES = ["one.weight", "two.weight"]


class Net(nn.Module):
    """Smooth, so that it has second derivatives; a part stays in eval mode while the rest trains."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bn, self.two = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.bn.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.two(torch.tanh(self.bn(self.one(images.flatten(1)))))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def context(images: Tensor, labels: Tensor, seed: int = 0, loss: Any = None) -> Context:
    """Batches of 3, the last one smaller."""
    batches = list(zip(images.split(3), labels.split(3), strict=True))
    loss = CrossEntropy(label_smoothing=0.0) if loss is None else loss
    return Context(batches, loss, images[:1], seed, lambda *_, **__: None)


IMAGES, LABELS = drawn(7, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2, 2])


def test_the_magnitude_of_four_weights_is_their_distance_from_zero() -> None:
    weights = torch.tensor([-2.0, 0.5, 0.0, 1.5])
    assert magnitude_scores(weights).tolist() == [2.0, 0.5, 0.0, 1.5]


def test_magnitude_equals_the_root_of_the_square() -> None:
    weight = drawn(4, 3, 2, 2)
    assert torch.allclose(magnitude_scores(weight), weight.square().sqrt(), rtol=1e-15)


def test_scores_are_cut_off_from_the_gradient_and_from_the_weight() -> None:
    weight = nn.Parameter(torch.tensor([-2.0, 0.5, 0.0, 1.5]))
    magnitude_scores(weight).fill_(9)
    assert weight.tolist() == [-2.0, 0.5, 0.0, 1.5]
    for scores in (
        magnitude_scores(weight),
        taylor_scores(weight, weight.detach()),
        curvature_scores(weight, weight.detach()),
    ):
        assert not scores.requires_grad


def test_taylor_and_curvature_of_four_weights() -> None:
    weights = torch.tensor([-2.0, 0.5, 0.0, 1.0])
    assert taylor_scores(weights, torch.tensor([1.0, -4.0, 5.0, 0.0])).tolist() == [2.0, 2.0, 0.0, 0.0]
    assert curvature_scores(weights, torch.tensor([1.0, 8.0, 5.0, -2.0])).tolist() == [2.0, 1.0, 0.0, -1.0]


def test_taylor_is_the_closed_form_of_softmax_regression() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(images.flatten(1))

    torch.manual_seed(0)
    model = Linear().double()
    weight, bias, expected = model.fc.weight.tolist(), model.fc.bias.tolist(), torch.zeros(3, 4, dtype=torch.float64)
    for image, label in zip(IMAGES.flatten(1).tolist(), LABELS.tolist(), strict=True):
        exps = [
            torch.tensor(sum(w * x for w, x in zip(row, image, strict=True)) + b).double().exp()
            for row, b in zip(weight, bias, strict=True)
        ]
        for j in range(3):
            for i in range(4):
                expected[j, i] += (exps[j] / sum(exps) - int(j == label)) * image[i] / 7
    score = Taylor()(model, ["fc.weight"], context(IMAGES, LABELS))["fc.weight"]
    assert torch.allclose(score, (model.fc.weight * expected).abs(), rtol=1e-6)


def exact_hessian(model: nn.Module, images: Tensor, labels: Tensor, loss: Any) -> Tensor:
    """The whole matrix over the weights called NAMES, one after the other."""
    model = copy.deepcopy(model).eval()
    weights = {name: model.get_parameter(name).detach() for name in NAMES}

    def of_weights(flat: Tensor) -> Tensor:
        parts = flat.split([weight.numel() for weight in weights.values()])
        given = {name: part.view_as(weights[name]) for name, part in zip(NAMES, parts, strict=True)}
        return loss(torch.func.functional_call(model, given, (images,)), labels, images)

    full = torch.autograd.functional.hessian(of_weights, torch.cat([weight.flatten() for weight in weights.values()]))
    assert isinstance(full, Tensor)
    return full


def test_many_draws_approach_the_diagonal_of_the_hessian_as_fast_as_they_must() -> None:
    """The variance of one draw of entry i is the sum of its row's other entries, squared (Bekas et al. 2007)."""
    model, calibration, draws = net(), context(IMAGES, LABELS), 400
    estimated = hessian_diagonal(model, [model.get_parameter(name) for name in NAMES], calibration, draws)
    exact, variance = torch.zeros(21, dtype=torch.float64), torch.zeros(21, dtype=torch.float64)
    for images, labels in calibration.calibration:
        full = exact_hessian(model, images, labels, calibration.loss)
        exact += full.diagonal() * len(labels) / 7
        variance += (full.square().sum(1) - full.diagonal().square()) * (len(labels) / 7) ** 2 / draws
    found = torch.cat([diagonal.flatten() for diagonal in estimated])
    assert bool(((found - exact).abs() <= 3.5 * variance.sqrt()).all())
    assert float(((found - exact).square() / variance).mean()) == pytest.approx(1, abs=0.7)
    scores = Hessian(draws=draws)(model, NAMES, calibration)
    for name, diagonal in zip(NAMES, estimated, strict=True):
        assert torch.equal(scores[name], 0.5 * diagonal.abs() * model.get_parameter(name).detach().square())


def test_one_draw_is_exact_if_the_hessian_is_diagonal() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(drawn(4, seed=1))

        def forward(self, images: Tensor) -> Tensor:
            return self.weight * images.flatten(1)

    def squares(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return logits.square().sum(1).mean()

    model = Scale()
    (diagonal,) = hessian_diagonal(model, [model.weight], context(IMAGES, LABELS, loss=squares), draws=1)
    assert torch.allclose(diagonal, 2 * IMAGES.flatten(1).square().mean(0), rtol=1e-12)


def test_a_few_draws_tell_which_weights_a_trained_network_can_spare() -> None:
    """Half of the weights go at once. Signed estimates, half of them negative by chance, are no better than chance."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    calibration = Context(
        [(images[:400], labels[:400])], CrossEntropy(label_smoothing=0.0), images[:1], 0, lambda *_, **__: None
    )

    def left(scores: Scores) -> float:
        pruned, names = copy.deepcopy(model), ["1.weight", "3.weight"]
        with torch.no_grad():
            for name, mask in Global()(scores(pruned, names, calibration), 0.5).items():
                pruned.get_parameter(name).mul_(mask)
            return float((pruned(images).argmax(1) == labels).float().mean())

    assert left(Hessian(draws=4)) > 0.9
    assert left(Random()) < 0.8


def test_the_hessian_needs_a_draw() -> None:
    with pytest.raises(ValueError, match="draws must be at least 1, and is 0"):
        Hessian(draws=0)


def test_fisher_is_the_mean_of_squared_gradients_of_single_images() -> None:
    model, calibration = net(), context(IMAGES, LABELS)
    scores = Fisher()(model, NAMES, calibration)
    judged = copy.deepcopy(model).eval()
    weights = [judged.get_parameter(name) for name in NAMES]
    squares = [torch.zeros_like(weight) for weight in weights]
    for at in range(7):
        loss = calibration.loss(judged(IMAGES[at : at + 1]), LABELS[at : at + 1], IMAGES[at : at + 1])
        for total, gradient in zip(squares, torch.autograd.grad(loss, weights), strict=True):
            total += gradient.square() / 7
    for name, weight, square in zip(NAMES, weights, squares, strict=True):
        assert torch.allclose(scores[name], 0.5 * square * weight.detach().square(), rtol=1e-9)


def test_chance_follows_from_the_seed() -> None:
    model = net()
    first, same, other = (Random()(model, NAMES, context(IMAGES, LABELS, seed)) for seed in (3, 3, 4))
    for name in NAMES:
        assert torch.equal(first[name], same[name])
        assert not torch.equal(first[name], other[name])
    assert not torch.equal(first["one.weight"].flatten()[:9], first["two.weight"].flatten())


CRITERIA: dict[str, Callable[[], Scores]] = {
    "magnitude": Magnitude,
    "taylor": Taylor,
    "hessian": lambda: Hessian(draws=2),
    "fisher": Fisher,
    "random": Random,
}


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_every_criterion_leaves_the_model_as_it_was(criterion: Callable[[], Scores]) -> None:
    model = net()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    with torch.no_grad():  # as a pruning calls it
        scores = criterion()(model, list(reversed(NAMES)), context(IMAGES, LABELS))
        again = criterion()(model, list(reversed(NAMES)), context(IMAGES, LABELS))
    assert list(scores) == list(reversed(NAMES))
    for name, score in scores.items():
        assert score.shape == model.get_parameter(name).shape
        assert not score.requires_grad
        assert torch.equal(score, again[name])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("criterion", [Taylor, lambda: Hessian(draws=1), Fisher])
def test_what_needs_images_refuses_to_score_without(criterion: Callable[[], Scores]) -> None:
    empty = Context([], CrossEntropy(label_smoothing=0.0), IMAGES[:1], 0, lambda *_, **__: None)
    with pytest.raises(ValueError, match="there is no calibration image to score by"):
        criterion()(net(), NAMES, empty)


def test_curvature_of_a_network_with_attention_can_be_estimated() -> None:
    """Fused attention has no second derivative: the plain one is taken."""
    torch.manual_seed(0)
    model = Transformer()
    scores = Hessian(draws=1)(
        model, ["qkv.weight", "up.weight"], context(IMAGE.repeat(3, 1, 1, 1), torch.tensor([0, 1, 2]))
    )
    assert all(bool(score.isfinite().all()) and bool((score > 0).any()) for score in scores.values())


def test_a_network_without_a_second_derivative_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Hardsigmoid(), nn.Linear(4, 3)).double()
    with pytest.raises(ValueError, match="the network has no second derivative .*; choose other scores"):
        Hessian(draws=1)(model, ["1.weight"], context(IMAGES, LABELS))
