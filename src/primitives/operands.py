"""The tensors that a network's operators use as weights, and the parameters that they come from.

Names do not tell: a forward can call ``F.conv2d(x, self.kernel)``, and a layer can compute its weight from a
parameter in each forward pass (weight standardization, weight norm). So the operators of one forward pass are recorded,
and their operands are followed back to parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

OPERATORS = {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)}
OPERATORS |= {"linear", "bilinear", "embedding", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "einsum"}
OPERATORS |= {"addmm", "baddbmm", "multi_head_attention_forward"}
OPERATORS |= {f"{kind}{cell}" for kind in ("gru", "lstm", "rnn_tanh", "rnn_relu") for cell in ("", "_cell")}


def effective_weights(model: nn.Module, example_input: Tensor) -> dict[str, list[Tensor]]:
    """Find the tensors that convolutions, matrix products and embeddings use in place of each parameter.

    Args:
        model: It is left as it was.
        example_input: ``[1, c, h, w]``.

    Returns:
        For each parameter of two dimensions or more, by name and in the order of the network: the operands that are the
        parameter, a view of it, or computed from it. A parameter that no such operator uses is left out.

    >>> layer = torch.nn.Linear(2, 1)
    >>> [torch.equal(*taken, layer.weight) for taken in effective_weights(layer, torch.ones(1, 2)).values()]
    [True]
    """
    watched = copy.deepcopy(model).cpu().eval()
    for parameter in watched.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    image = example_input.detach().cpu().clone().requires_grad_()
    watching = _Operands()
    with torch.enable_grad(), watching:
        watched(image)
    names = {id(parameter): name for name, parameter in watched.named_parameters() if parameter.dim() > 1}
    found: dict[str, list[Tensor]] = {}
    activations: set[Any] = {image}
    for operand in watching.operands:
        leaves = _leaves(operand, activations)
        if leaves is None and operand.grad_fn is not None:
            activations.add(operand.grad_fn)
        for leaf in leaves or ():
            if id(leaf) in names:
                found.setdefault(names[id(leaf)], []).append(operand.detach())
    return {name: found[name] for name in names.values() if name in found}


def operator_weights(model: nn.Module, example_input: Tensor) -> list[str]:
    """List the parameters that operators use as their weights, in the order of the network.

    >>> operator_weights(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), torch.ones(1, 3, 2, 2))
    ['0.weight']
    """
    return list(effective_weights(model, example_input))


class _Operands(TorchFunctionMode):
    """While active, records the operands of two dimensions or more."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in OPERATORS:
            leaves = tree_leaves((args, kwargs or {}))
            self.operands += [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 1]
        return func(*args, **(kwargs or {}))


def _leaves(tensor: Tensor, activations: Collection[Any]) -> list[Tensor] | None:
    """Find the leaves of the autograd graph that a tensor was computed from; of a leaf, the tensor itself.

    Args:
        tensor: Computed with gradients enabled.
        activations: The image, and nodes of the autograd graph that depend on the image.

    Returns:
        The leaves; None if the tensor depends on the image.
    """
    if tensor.grad_fn is None:
        return None if tensor in activations else [tensor]
    leaves: list[Tensor] = []
    seen: set[Any] = set()
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in activations or getattr(node, "variable", None) in activations:
            return None
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return leaves
