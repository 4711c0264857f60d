"""Folding batch normalization into the convolution or dense layer before it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return [
        (names[layer], names[norm])
        for layer, norm in found
        if calls[layer] == calls[norm] == 1
        and owners[id(layer.weight)] == 1  # folding would untie a weight that two layers share
        and norm.running_var is not None
        and norm.num_features == layer.weight.shape[0]  # type: ignore[index]
    ]


@torch.no_grad()
def folded_layer(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A copy of ``layer`` that computes what ``norm`` makes of its output.

    ``w' = w g / sqrt(v + e)`` and ``b' = (b - m) g / sqrt(v + e) + h`` per output channel, of the normalization's mean
    m, variance v, weight g (1 if it has none) and bias h (0 if it has none).

    Paper: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """
    folded = copy.deepcopy(layer)
    scale = torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[operator]
    scale = scale if norm.weight is None else scale * norm.weight  # type: ignore[operator]
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
    shift = (bias - norm.running_mean) * scale  # type: ignore[operator]
    shift = shift if norm.bias is None else shift + norm.bias  # type: ignore[operator]
    along = (-1, *[1] * (layer.weight.dim() - 1))  # type: ignore[operator]
    folded.weight = nn.Parameter(layer.weight * scale.view(along))  # type: ignore[operator]
    folded.bias = nn.Parameter(shift)
    return folded


def fold(model: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """Fold each pair in place; the normalization becomes an ``nn.Identity``."""
    for layer_name, norm_name in pairs:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        replace_module(model, layer_name, folded_layer(layer, norm))
        replace_module(model, norm_name, nn.Identity())
    return model


def fold_batch_norm(model: nn.Module, example_input: Tensor) -> list[Pair]:
    """Fold in place every pair that leaves the outputs as they were; return those folded.

    A layer whose output is also used elsewhere would change the outputs; a check on the example and on noise of two
    strengths finds it, and it is left alone.

    Args:
        model: In eval mode.
        example_input: ``[1, c, h, w]``.
    """
    noise = torch.randn(8, *example_input.shape[1:], generator=torch.Generator().manual_seed(0))
    probes = torch.cat([example_input, noise[:4], 10 * noise[4:]])
    folded = []
    for pair in foldable_pairs(model, example_input):
        layer, norm = (model.get_submodule(name) for name in pair)
        with torch.no_grad():
            before = model(probes)
            fold(model, [pair])
            after = model(probes)
        if torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max().clamp(min=1))):
            folded.append(pair)
        else:
            replace_module(model, pair[0], layer)
            replace_module(model, pair[1], norm)
    return folded


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` where ``name`` stands in ``model``."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
