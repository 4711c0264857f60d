"""What a share is a share of: the cost of a network, in a unit of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Cost = Callable[[nn.Module, Tensor], float]
LAYERS = (nn.Linear, _ConvNd)


class Channels:
    """Output channels of all convolutions and dense layers but the last, whose outputs are the logits."""

    def __call__(self, model: nn.Module, example_input: Tensor) -> float:
        """Count them; a layer that is called twice has its channels once.

        Args:
            model: It is left as it was.
            example_input: ``[1, c, h, w]``.
        """
        called: list[nn.Module] = []
        with _on_each_call(model, lambda layer, _inputs, _output: called.append(layer)):
            _run(model, example_input)
        return float(sum(_outputs(layer) for layer in set(called) - set(called[-1:])))


class Macs:
    """Multiply-accumulate operations of all convolutions and dense layers for one image."""

    def __call__(self, model: nn.Module, example_input: Tensor) -> float:
        """Count them; a layer that is called twice counts twice.

        Args:
            model: It is left as it was.
            example_input: ``[1, c, h, w]``.
        """
        counts: list[int] = []
        with _on_each_call(model, lambda *call: counts.append(_macs(*call))):
            _run(model, example_input)
        return sum(counts) / len(example_input)


class Parameters:
    """Numbers that training changes; a parameter that two modules share counts once."""

    def __call__(self, model: nn.Module, example_input: Tensor) -> float:
        """Count them; ``example_input`` plays no part."""
        return float(sum(parameter.numel() for parameter in model.parameters()))


class Bytes:
    """Bytes of the parameters and buffers, each in its own type."""

    def __call__(self, model: nn.Module, example_input: Tensor) -> float:
        """Count them; ``example_input`` plays no part."""
        return float(sum(t.numel() * t.element_size() for t in chain(model.parameters(), model.buffers())))


def _outputs(layer: nn.Module) -> int:
    return cast(int, layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _macs(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Each output element is a sum over the weights of its channel; transposed, each input element is spread so."""
    weight = cast(Tensor, layer.weight)
    elements = inputs[0].numel() if isinstance(layer, _ConvTransposeNd) else output.numel()
    return elements * prod(weight.shape[1:])


@contextmanager
def _on_each_call(model: nn.Module, note: Callable[[nn.Module, tuple[Tensor, ...], Tensor], object]) -> Iterator[None]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        note(layer, inputs, output)

    hooks = [layer.register_forward_hook(hook) for layer in model.modules() if isinstance(layer, LAYERS)]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@torch.no_grad()
def _run(model: nn.Module, example_input: Tensor) -> None:
    training = [module for module in model.modules() if module.training]
    model.eval()(example_input)
    for module in training:
        module.training = True
