"""What NNCF does for pruning: it holds masks and gates, and adapts batch norm; ``_nncf_quantizers`` has INT8."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import cast

import nncf
import nncf.torch
import torch
from nncf.torch.function_hook.pruning.magnitude.algo import apply_magnitude_pruning, get_pruned_modules
from nncf.torch.function_hook.pruning.rb.algo import apply_regularization_based_pruning
from nncf.torch.function_hook.pruning.rb.algo import get_pruned_modules as get_gated_modules
from nncf.torch.function_hook.wrapper import wrap_model
from torch import Tensor, nn

from src.contracts import NNCF_HOOKS

# Masks --------------------------------------------------------------------------------------------


def attach_masks(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Attach a mask, True everywhere, to the parameters ``names``, by which each use of them is multiplied.

    Args:
        model: Changed in place; its root must not be an ``nn.Sequential``.
        names: Names of parameters.
    """
    masked = apply_magnitude_pruning(
        wrap_model(model), set(names), mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, ratio=0.0
    )
    for mask in masks_of(masked).values():
        mask.fill_(True)
    return masked


def masks_of(masked: nn.Module) -> dict[str, Tensor]:
    """The mask buffers by parameter name (bool, of the weight's shape).

    Do not store them: moving a model to another device or memory format replaces its buffers.
    """
    return {name: cast(Tensor, hook.binary_mask) for name, hook in sorted(get_pruned_modules(masked).items())}


def set_masks(masked: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Write ``masks`` (bool, by parameter name) into the mask buffers; other buffers stay."""
    buffers = masks_of(masked)
    for name, mask in masks.items():
        buffers[name].copy_(mask)


@torch.no_grad()
def bake_masks(masked: nn.Module, plain: nn.Module) -> nn.Module:
    """Give ``plain`` the weights of ``masked`` multiplied by their masks, in place, on the device of ``masked``.

    Args:
        masked: A network with masks.
        plain: The same network without masks; changed in place.
    """
    plain.to(next(masked.parameters()).device).load_state_dict(plain_state(masked))
    for name, mask in masks_of(masked).items():
        plain.get_parameter(name).mul_(mask)
    return plain


# Gates --------------------------------------------------------------------------------------------


def attach_gates(model: nn.Module, names: Collection[str]) -> nn.Module:
    """Attach a learned gate to each number of the parameters ``names`` (regularization-based pruning).

    Args:
        model: Changed in place; its root must not be an ``nn.Sequential``.
        names: Names of parameters.
    """
    return apply_regularization_based_pruning(wrap_model(model), set(names))


def logits_of(gated: nn.Module) -> dict[str, nn.Parameter]:
    """The gates' logits by parameter name, of the weight's shape; a gate is closed below 0."""
    return {name: gate.mask for name, gate in sorted(get_gated_modules(gated).items())}


class DensityPenalty:
    """``((density - wanted density) / strength)^2`` of gates, as NNCF's ``RBLoss``, but without reading it on the host.

    Args:
        gated: A network with gates.
        strength: Divisor, more than 0.
    """

    def __init__(self, gated: nn.Module, strength: float) -> None:
        self.gated, self.strength = gated, strength
        self.density = torch.ones(())

    def aim(self, sparsity: float) -> None:
        """Want this sparsity, in [0, 1), from now on."""
        self.density.fill_(1 - sparsity)

    def __call__(self) -> Tensor:
        """The penalty now, ``[]``."""
        kept = [gate.loss() for gate in get_gated_modules(self.gated).values()]
        total = functools.reduce(torch.add, [each.sum() for each in kept])
        self.density = self.density.to(total.device)
        weights = sum(each.numel() for each in kept)
        return ((total / weights - self.density) / self.strength).pow(2)


def plain_state(hooked: nn.Module) -> dict[str, Tensor]:
    """The state dict without what NNCF attached; the versions of layers stay in it: some load no other."""
    state = hooked.state_dict()
    for name in [name for name in state if name.startswith(NNCF_HOOKS)]:
        del state[name]
    return state


# Batch normalization ------------------------------------------------------------------------------


def adapt_batch_norm(model: nn.Module, calibration: Iterable[tuple[Tensor, Tensor]], batches: int) -> None:
    """Move the running statistics of batch normalization towards those of the calibration images, in place.

    Args:
        model: Changed in place.
        calibration: Batches ``(images, labels)``.
        batches: Number of batches that are used.
    """
    nncf.batch_norm_adaptation(model, nncf.Dataset([images for images, _ in calibration]), num_iterations=batches)
