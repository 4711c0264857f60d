"""Folding batch normalization into the convolution or dense layer before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

Pair = tuple[str, str]
FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def foldable_pairs(model: nn.Module, example_input: Tensor) -> list[Pair]:
    """Find each batch normalization that reads a layer's output directly, both being called once.

    Args:
        model: In eval mode.
        example_input: ``[1, c, h, w]``.

    Returns:
        ``(layer name, normalization name)``, in the order of the forward pass.
    """
    names = {module: name for name, module in model.named_modules()}
    calls: dict[nn.Module, int] = {}
    produced: list[tuple[Tensor, nn.Module]] = []
    found: list[tuple[nn.Module, nn.Module]] = []

    def called(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, FOLDABLE):
            produced.append((output, module))
        elif inputs:
            found.extend((maker, module) for made, maker in produced if made is inputs[0])

    hooks = [
        module.register_forward_hook(called) for module in model.modules() if isinstance(module, (*FOLDABLE, *NORMS))
    ]
    try:
        with torch.no_grad():
            model(example_input)
    finally:
        for hook in hooks:
            hook.remove()
    return [(names[layer], names[norm]) for layer, norm in found if calls[layer] == calls[norm] == 1]


def fold(model: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """Fold each pair in place; the normalization becomes an ``nn.Identity``."""
    for layer_name, norm_name in pairs:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        if isinstance(layer, nn.Linear):
            fused: nn.Module = fuse_linear_bn_eval(layer, norm)  # type: ignore[arg-type]
        else:
            fused = fuse_conv_bn_eval(layer, norm)  # type: ignore[type-var,arg-type]
        _replace(model, layer_name, fused)
        _replace(model, norm_name, nn.Identity())
    return model


def fold_batch_norm(model: nn.Module, example_input: Tensor) -> list[Pair]:
    """Fold in place every pair that leaves the outputs as they were; return those folded.

    A layer whose output is also used elsewhere would change the outputs; the check finds it and it is left alone.

    Args:
        model: In eval mode.
        example_input: ``[1, c, h, w]``.
    """
    folded = []
    for pair in foldable_pairs(model, example_input):
        layer, norm = (model.get_submodule(name) for name in pair)
        with torch.no_grad():
            before = model(example_input)
            fold(model, [pair])
            after = model(example_input)
        if torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max().clamp(min=1))):
            folded.append(pair)
        else:
            _replace(model, pair[0], layer)
            _replace(model, pair[1], norm)
    return folded


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
