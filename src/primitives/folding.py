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
    """Find each batch normalization that directly reads a layer's output, if both are called once.

    Args:
        model: In eval mode; it is left as it was.
        example_input: ``[1, c, h, w]``.

    Returns:
        ``(layer name, normalization name)``, in the order of the forward pass.
    """
    names = {module: name for name, module in model.named_modules()}
    calls: dict[nn.Module, int] = {}
    outputs: list[tuple[Tensor, nn.Module]] = []
    found: list[tuple[nn.Module, nn.Module]] = []

    def note_call(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, FOLDABLE):
            outputs.append((output, module))
        elif inputs:
            found.extend((layer, module) for output_of_layer, layer in outputs if output_of_layer is inputs[0])

    hooks = [
        module.register_forward_hook(note_call) for module in model.modules() if isinstance(module, (*FOLDABLE, *NORMS))
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
    """Copy ``layer`` with ``norm`` folded into it: the copy computes ``norm(layer(x))``.

    ``w' = w g / sqrt(v + e)`` and ``b' = (b - m) g / sqrt(v + e) + h`` per output channel, with the normalization's
    mean m, variance v, weight g (1 if it has none) and bias h (0 if it has none).

    Paper: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """
    folded = copy.deepcopy(layer)
    scale = torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[operator]
    scale = scale if norm.weight is None else scale * norm.weight  # type: ignore[operator]
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
    shift = (bias - norm.running_mean) * scale  # type: ignore[operator]
    shift = shift if norm.bias is None else shift + norm.bias  # type: ignore[operator]
    per_output = (-1, *[1] * (layer.weight.dim() - 1))  # type: ignore[operator]
    folded.weight = nn.Parameter(layer.weight * scale.view(per_output))  # type: ignore[operator]
    folded.bias = nn.Parameter(shift)
    return folded


def fold(model: nn.Module, pairs: Sequence[Sequence[str]]) -> nn.Module:
    """Fold each pair in place; the normalization becomes an ``nn.Identity``.

    Args:
        model: Changed in place.
        pairs: ``(layer name, normalization name)``.
    """
    for layer_name, norm_name in pairs:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        replace_module(model, layer_name, folded_layer(layer, norm))
        replace_module(model, norm_name, nn.Identity())
    return model


def fold_batch_norm(model: nn.Module, example_input: Tensor) -> list[Pair]:
    """Fold every pair that leaves the outputs as they were, in place.

    If a layer's output is also used elsewhere, folding would change the network's outputs. Outputs are compared on the
    example and on noise of two strengths; a pair that changes them is not folded.

    Args:
        model: In eval mode; changed in place.
        example_input: ``[1, c, h, w]``.

    Returns:
        The folded pairs, ``(layer name, normalization name)``.
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
    """Replace the module called ``name`` of ``model`` by ``module``, in place."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
