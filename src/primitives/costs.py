"""The cost of a network, of which a method removes a share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from math import prod
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

LAYERS = (nn.Linear, _ConvNd)


class Cost(Protocol):
    """Counts what a network costs; an axis of channel pruning."""

    def __call__(self, model: nn.Module, example_input: Tensor) -> float:
        """Count the cost, in a unit of its own.

        Args:
            model: It is left as it was.
            example_input: ``[1, c, h, w]``.
        """
        ...


class Channels:
    """Output channels of all convolutions and dense layers but the last, whose outputs are the logits."""

    def __call__(self, model: nn.Module, example_input: Tensor) -> float:
        """Count the channels; those of a layer that is called twice count once.

        >>> Channels()(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3))
        4.0
        """
        called: list[nn.Module] = []
        with _on_each_call(model, lambda layer, _inputs, _output: called.append(layer)):
            _run_once(model, example_input)
        return float(sum(_output_channels(layer) for layer in set(called) - set(called[-1:])))


class Macs:
    """Multiply-accumulate operations of all convolutions and dense layers for one image."""

    def __call__(self, model: nn.Module, example_input: Tensor) -> float:
        """Count the operations; those of a layer that is called twice count twice.

        >>> Macs()(nn.Conv2d(3, 4, kernel_size=1), torch.zeros(1, 3, 5, 5))  # 25 positions, 3 x 4 weights
        300.0
        """
        counts: list[int] = []
        with _on_each_call(model, lambda *call: counts.append(_macs(*call))):
            _run_once(model, example_input)
        return sum(counts) / len(example_input)


class Parameters:
    """Numbers that training changes."""

    def __call__(self, model: nn.Module, example_input: Tensor) -> float:
        """Count the parameters; one that two modules share counts once.

        >>> Parameters()(nn.Linear(3, 2), torch.zeros(1, 3))  # 6 weights and 2 biases
        8.0
        """
        return float(sum(parameter.numel() for parameter in model.parameters()))


class Bytes:
    """Bytes of the parameters and buffers, each in its own type."""

    def __call__(self, model: nn.Module, example_input: Tensor) -> float:
        """Count the bytes; a tensor that two modules share counts once.

        >>> Bytes()(nn.Linear(3, 2).half(), torch.zeros(1, 3))  # 8 numbers of 2 bytes
        16.0
        """
        return float(sum(t.numel() * t.element_size() for t in chain(model.parameters(), model.buffers())))


def _output_channels(layer: nn.Module) -> int:
    return cast(int, layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _macs(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """The operations of one call.

    Each output element is a sum over the weights of its channel; in a transposed convolution each input element is
    multiplied by the weights of its channel.
    """
    weight = cast(Tensor, layer.weight)
    elements = inputs[0].numel() if isinstance(layer, _ConvTransposeNd) else output.numel()
    return elements * prod(weight.shape[1:])


@contextmanager
def _on_each_call(model: nn.Module, note: Callable[[nn.Module, tuple[Tensor, ...], Tensor], object]) -> Iterator[None]:
    """Call ``note(layer, inputs, output)`` after each call of a layer."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        note(layer, inputs, output)

    hooks = [layer.register_forward_hook(hook) for layer in model.modules() if isinstance(layer, LAYERS)]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@torch.no_grad()
def _run_once(model: nn.Module, example_input: Tensor) -> None:
    training = [module for module in model.modules() if module.training]
    model.eval()(example_input)
    for module in training:
        module.training = True
