"""Checks whether the weights are as a step claims, on the tensors that the network's operators use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.contracts import Claim, Compressed, InputError
from src.primitives.operands import effective_weights

NAMED = 4  # layers that a line names; the others are counted


def checked(step: str, made: Compressed, example_input: Tensor) -> list[str]:
    """Check a step's claims, and list the weights and layers that it did not work on.

    A network can compute the weight that it uses from a parameter, and a zero of the parameter is then no zero of the
    weight. So zeros and distinct values are counted on the tensors that the operators use.

    Args:
        step: Name of the step, for the messages.
        made: The step's result.
        example_input: ``[1, c, h, w]``.

    Returns:
        Lines for the user: the weights and layers that the step did not change; empty if it changed all.

    Raises:
        InputError: A weight has fewer zeros, or more distinct values, than claimed; the message names it.
    """
    if made.claims:
        effective = effective_weights(made.model, example_input)
        for name, claim in made.claims.items():
            for taken in effective.get(name, [made.model.get_parameter(name).detach()]):
                _require(step, name, claim, taken, made.model)
    return [*_weights_not_reached(step, made), *_layers_left_alone(step, made)]


def _require(step: str, name: str, claim: Claim, taken: Tensor, model: nn.Module) -> None:
    """Raise InputError if ``taken``, the tensor that an operator uses for the weight ``name``, breaks the claim."""
    parameter = model.get_parameter(name)
    if taken.numel() < parameter.numel():
        return  # a part of the parameter, which may have less than its share
    wrong = _difference(claim, taken, same_shape=taken.shape == parameter.shape)
    if not bool(parameter.isfinite().all()):
        raise InputError(f"{step}: {name} holds numbers that are not finite; train with a lower learning rate")
    if wrong and torch.equal(taken, parameter):
        raise InputError(f"{step}: {name} has {wrong}; add {name} to this step's ignored")
    if wrong:
        owner = name.rpartition(".")[0]
        kind = type(model.get_submodule(owner)).__name__
        raise InputError(
            f"{step}: {name} has {wrong}: {kind} computes the weight that it uses from this parameter; add {name} to "
            f"this step's ignored"
        )


def _difference(claim: Claim, taken: Tensor, *, same_shape: bool) -> str | None:
    """Describe how ``taken`` breaks the claim; None if it does not."""
    sparsity = 1 - int(taken.count_nonzero()) / taken.numel()
    if sparsity < claim.sparsity - 0.5 / taken.numel():
        return f"{100 * sparsity:.1f} % zeros in place of {100 * claim.sparsity:.1f} %"
    if claim.values is not None and (values := int(taken.unique().numel())) > claim.values:
        return f"{values:,} distinct values in place of {claim.values:,}"
    if claim.channel_values is not None and same_shape:
        values = max(int(channel.unique().numel()) for channel in taken)
        if values > claim.channel_values:
            return f"{values:,} distinct values in a channel in place of {claim.channel_values:,}"
    return None


def _weights_not_reached(step: str, made: Compressed) -> list[str]:
    """One line with the share of the weights that the step worked on, and the names of the others."""
    counts = {name: weight.numel() for name, weight in made.model.named_parameters() if weight.dim() > 1}
    others = [name for name in counts if name not in made.claims]
    if not made.claims or not others:
        return []
    reached = sum(counts[name] for name in made.claims)
    return [f"{step} reaches {reached:,} of {sum(counts.values()):,} weights; not {_listed(others)}"]


def _layers_left_alone(step: str, made: Compressed) -> list[str]:
    """One line for each reason, with the names of the layers that were left alone for it."""
    names: dict[str, list[str]] = {}
    for name, reason in made.left_alone.items():
        names.setdefault(reason, []).append(name)
    return [f"{step} leaves alone {_listed(layers)}: {reason}" for reason, layers in names.items()]


def _listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
