"""Scores of weights: the higher survives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from src.contracts import Context, first_line


class Scores(Protocol):
    """How much each weight matters, by some criterion; an axis of every pruning method."""

    def __call__(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        """Score the weights called ``names``.

        Args:
            model: A plain network; it is left as it was.
            names: Names of parameters.
            context: Calibration batches with their labels, the loss, a seed.

        Returns:
            Scores by parameter name, in the order of ``names``, each of its weight's shape and on its device.
        """
        ...


def magnitude_scores(weight: Tensor) -> Tensor:
    """Score each weight by its absolute value; the higher survives.

    Args:
        weight: Any shape, e.g. ``[out, in, kh, kw]``.

    Returns:
        Scores of the same shape, non-negative, in the unit of ``weight``.

    Paper: Han et al. 2015, arXiv:1506.02626, section 3. No deviation.

    >>> magnitude_scores(torch.tensor([-2.0, 0.5, 0.0, 1.5]))
    tensor([2.0000, 0.5000, 0.0000, 1.5000])
    """
    return weight.detach().abs()


def taylor_scores(weight: Tensor, gradient: Tensor) -> Tensor:
    """Score each weight by how much the loss changes, to first order, when it becomes zero: ``|w g|``.

    Args:
        weight: Any shape.
        gradient: Gradient of the mean loss with respect to the weight, of the same shape.

    Returns:
        Scores of the same shape, non-negative, in the unit of the loss.

    Paper: Molchanov et al. 2017, arXiv:1611.06440, equation 7; for weights in place of feature maps, and the gradient
    is that of the mean loss.

    >>> taylor_scores(torch.tensor([-2.0, 0.5]), torch.tensor([1.0, -4.0]))
    tensor([2., 2.])
    """
    return (weight.detach() * gradient).abs()


def curvature_scores(weight: Tensor, diagonal: Tensor) -> Tensor:
    """Score each weight by how much the loss rises, to second order, when it becomes zero: ``h w^2 / 2``.

    Args:
        weight: Any shape.
        diagonal: Diagonal of the loss's Hessian, or an estimate of it, of the weight's shape.

    Returns:
        Scores of the same shape, in the unit of the loss.

    Paper: LeCun, Denker and Solla 1989, Optimal Brain Damage, equation 4.

    >>> curvature_scores(torch.tensor([-2.0, 0.5]), torch.tensor([1.0, 8.0]))
    tensor([2., 1.])
    """
    return 0.5 * diagonal * weight.detach().square()


class Magnitude:
    """``magnitude_scores`` of every weight tensor; needs no data."""

    def __call__(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        return {name: magnitude_scores(model.get_parameter(name)) for name in names}


class Taylor:
    """``taylor_scores`` with the gradient of the mean loss over all calibration images."""

    def __call__(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        weights = {name: model.get_parameter(name) for name in names}
        with _eval_with_gradients(model):
            total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
            count = 0
            for images, labels in batches_on_device(model, context):
                loss = context.loss(model(images), labels, images) * len(labels)
                for name, gradient in zip(names, _gradients(loss, list(weights.values())), strict=True):
                    total[name] += gradient
                count += len(labels)
        return {name: taylor_scores(weights[name], total[name] / count) for name in names}


@dataclass(frozen=True, kw_only=True)
class Hessian:
    """``curvature_scores`` with the absolute diagonal of the loss's Hessian, estimated by random signs.

    The estimate is ``|mean v * (H v)|`` for vectors v of independent random signs; without the absolute value its
    expectation is ``diag H``. H is the Hessian of the mean loss over the calibration images.

    Attributes:
        draws: Number of vectors v for each calibration batch, at least 1; the estimate's deviation falls with the
            square root of it.

    Paper: LeCun et al. 1989 (Optimal Brain Damage); estimator: Bekas et al. 2007, and Yao et al. 2021,
    arXiv:2006.00719, section 3.1 (in place of the Gauss-Newton recursion of 1989). Deviation from 1989: the absolute
    value, as in Yao et al. With a few draws, half of a layer's estimates are negative by chance alone, and the largest
    of these weights would be removed first.
    """

    draws: int

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, and is {self.draws}")

    def __call__(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        weights = [model.get_parameter(name) for name in names]
        diagonals = hessian_diagonal(model, weights, context, self.draws)
        return {name: curvature_scores(w, d.abs()) for name, w, d in zip(names, weights, diagonals, strict=True)}


class Fisher:
    """``curvature_scores`` with the diagonal of the empirical Fisher information: the mean squared gradient.

    Paper: Theis et al. 2018, arXiv:1801.05787, equation 6.
    """

    def __call__(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        weights = [model.get_parameter(name) for name in names]
        totals = [torch.zeros_like(weight) for weight in weights]
        count = 0
        with _eval_with_gradients(model):
            for images, labels in batches_on_device(model, context):
                for image, label in zip(images.split(1), labels.split(1), strict=True):
                    loss = context.loss(model(image), label, image)
                    for total, gradient in zip(totals, _gradients(loss, weights), strict=True):
                        total += gradient.square()
                count += len(labels)
        return {name: curvature_scores(w, t / count) for name, w, t in zip(names, weights, totals, strict=True)}


class Random:
    """Random scores: the control that every criterion must beat."""

    def __call__(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(context.seed)
        weights = {name: model.get_parameter(name) for name in names}
        return {name: torch.rand(w.shape, generator=generator).to(w.device) for name, w in weights.items()}


def hessian_diagonal(model: nn.Module, weights: Sequence[Tensor], context: Context, draws: int) -> list[Tensor]:
    """Estimate the diagonal of the Hessian of the mean calibration loss: ``mean v * (H v)``.

    Args:
        model: It is left as it was.
        weights: Parameters of ``model``.
        context: Calibration batches with their labels, the loss, a seed.
        draws: Number of random sign vectors v for each calibration batch.

    Returns:
        A tensor for each of ``weights``, of its shape.

    Paper: Bekas et al. 2007; Yao et al. 2021, arXiv:2006.00719, section 3.1.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> batch = (torch.tensor([[1.0, 3.0]]), torch.tensor([0]))
    >>> context = Context([batch], lambda outputs, *_: outputs.square().sum() / 2, batch[0], seed=0, fine_tune=None)
    >>> hessian_diagonal(layer, [layer.weight], context, draws=1000)[0].round()  # x^2 of each input x
    tensor([[1., 9.]])
    """
    totals = [torch.zeros_like(weight) for weight in weights]
    generator = torch.Generator().manual_seed(context.seed)
    count = 0
    with _eval_with_gradients(model), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        for images, labels in batches_on_device(model, context):
            loss = context.loss(model(images), labels, images)
            gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
            curved = [index for index, gradient in enumerate(gradients) if gradient.requires_grad]
            for _ in range(draws):
                signs = [(torch.rand(w.shape, generator=generator) < 0.5).to(w) * 2 - 1 for w in weights]
                products = _curvature_products(
                    [gradients[index] for index in curved], weights, [signs[index] for index in curved]
                )
                for total, sign, product in zip(totals, signs, products, strict=True):
                    total += sign * product * (len(labels) / draws)
            count += len(labels)
    return [total / count for total in totals]


def _curvature_products(
    gradients: Sequence[Tensor], weights: Sequence[Tensor], signs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The derivatives of ``gradients`` in the direction of ``signs``; ValueError if an operator has none."""
    try:
        return torch.autograd.grad(gradients, weights, signs, retain_graph=True, materialize_grads=True)
    except RuntimeError as error:
        raise ValueError(f"the network has no second derivative ({first_line(error)}); choose other scores") from error


def batches_on_device(model: nn.Module, context: Context) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over the calibration batches, moved to the model's device.

    Raises:
        ValueError: There is no batch.
    """
    device = next(model.parameters()).device
    batches = 0
    for images, labels in context.calibration:
        batches += 1
        yield images.to(device), labels.to(device)
    if not batches:
        raise ValueError("there is no calibration image to score by: data.calibration_images must be at least 1")


def _gradients(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of the loss with respect to each weight; zero for a weight that the network does not use."""
    return torch.autograd.grad(loss, weights, materialize_grads=True)


@contextmanager
def _eval_with_gradients(model: nn.Module) -> Iterator[None]:
    """Eval mode with gradients enabled; afterwards each module is in the mode that it had."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, was_training in training.items():
            module.training = was_training
