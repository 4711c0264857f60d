"""Replaces computed weights by plain parameters, so that methods change the weights that the network uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from src.contracts import InputError
from src.models.outputs import tensors_of

CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}  # difference of outputs, as a share of their largest


def bake(model: nn.Module, images: Tensor) -> list[str]:
    """Replace all weights that are computed in each forward pass by plain parameters, in place.

    These are weight and spectral normalization in both forms (parametrizations and hooks), every other parametrization,
    and masks of ``torch.nn.utils.prune``.

    Args:
        model: The network; it is put into eval mode.
        images: ``[n, c, h, w]``; outputs before and after are compared, in float64 if the network computes in it.

    Returns:
        Names of the layers that were baked.

    Raises:
        InputError: The outputs changed; the layers are named.
    """
    model.eval()
    names = [name for name, module in model.named_modules() if _is_computed(module)]
    if not names:
        return []
    precision, before = torch.float64, _output(model.double(), images.double())
    if before is None:
        precision, before = torch.float32, _output(model.float(), images)
    for name in names:
        _bake(model.get_submodule(name))
    after = _output(model, images.to(precision))
    model.float()
    if before is not None and after is not None:
        limit = CLOSE[precision] * max(1e-6, float(before.abs().max()))
        if not float((before - after).abs().max()) <= limit:
            raise InputError(f"model: the weights of {', '.join(names)} cannot be made plain: the outputs change")
    return names


def _is_computed(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module) or bool(_hooks(module))


def _hooks(module: nn.Module) -> list[object]:
    """The hooks that compute a parameter of this module before each forward pass."""
    kinds = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, kinds)]


def _bake(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    for hook in _hooks(module):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)


def _output(model: nn.Module, images: Tensor) -> Tensor | None:
    """The first output of the network; None if it does not compute in the type of ``images``."""
    try:
        with torch.no_grad():
            return next(value for _, value in tensors_of(model(images)))
    except (RuntimeError, StopIteration):
        return None
