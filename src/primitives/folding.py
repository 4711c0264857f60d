"""Folding batch normalization into the convolution or dense layer before it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from src.primitives.outputs import failing, precise_outputs, same_outputs

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

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    >>> foldable_pairs(model, torch.ones(1, 3, 2, 2))  # the second normalization reads what ReLU gives
    [('0', '1')]
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

    >>> layer, norm = nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0)
    >>> layer.weight.data, layer.bias.data = torch.tensor([[6.0]]), torch.tensor([1.0])
    >>> norm.running_mean, norm.running_var = torch.tensor([3.0]), torch.tensor([4.0])
    >>> folded = folded_layer(layer, norm)
    >>> folded.weight.item(), folded.bias.item()  # 6 / sqrt(4), and (1 - 3) / sqrt(4)
    (3.0, -1.0)
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
    """Fold each pair in place; of the normalization what it does besides stays: its activation, or nothing.

    Args:
        model: Changed in place.
        pairs: ``(layer name, normalization name)``.

    >>> fold(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU()), [("0", "1")])
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Identity()
      (2): ReLU()
    )
    """
    for layer_name, norm_name in pairs:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        replace_module(model, layer_name, folded_layer(layer, norm))
        children = list(norm.children())  # those of a normalization with an activation of its own
        replace_module(model, norm_name, nn.Sequential(*children) if children else nn.Identity())
    return model


def fold_batch_norm(model: nn.Module, example_input: Tensor) -> list[Pair]:
    """Fold every pair that leaves the outputs as they were, in place.

    If a layer's output is also used elsewhere, or if a layer computes something else of its weight, folding would
    change the network's outputs. Outputs are compared in float64 on the example and on noise of two strengths; a pair
    that changes them is not folded.

    Args:
        model: In eval mode; changed in place.
        example_input: ``[1, c, h, w]``.

    Returns:
        The folded pairs, ``(layer name, normalization name)``.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    >>> fold_batch_norm(model, torch.ones(1, 3, 2, 2))
    [('0', '1')]
    >>> model[0].bias is not None, model[1]
    (True, Identity())
    """
    pairs = foldable_pairs(model, example_input)
    noise = torch.randn(8, *example_input.shape[1:], generator=torch.Generator().manual_seed(0))
    probes = torch.cat([example_input.cpu(), noise[:4], 10 * noise[4:]])
    if not pairs:
        return []
    before = precise_outputs(model, probes)

    def holds(some: Sequence[Pair]) -> bool:
        # In float64 before it is folded: a folded weight is rounded.
        folded = fold(copy.deepcopy(model).to(before.dtype), some)
        return same_outputs(precise_outputs(folded, probes), before)

    changing = failing(pairs, holds)
    kept = [pair for pair in pairs if pair not in changing]
    if changing and not holds(kept):  # each keeps the outputs alone, and all of them together do not
        kept = []
    fold(model, kept)
    return kept


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module called ``name`` of ``model`` by ``module``, in place.

    >>> model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Flatten())
    >>> replace_module(model, "0.0", nn.Tanh())
    >>> model[0][0]
    Tanh()
    """
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
