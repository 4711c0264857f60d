"""Building a network for its data, and checking that the two fit."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import DataSplits, InputError, ModelBuilder, first_line


class Network(nn.Module):
    """Wraps an ``nn.Sequential``, which would call hooks that are added to it as children like layers.

    Args:
        net: The wrapped network.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.net(images)
        return result


def build_model(builder: ModelBuilder, splits: DataSplits, seed: int) -> nn.Module:
    """Build a network and pass one image through it.

    A builder gets those of ``num_classes``, ``in_channels`` and ``image_size`` that its signature names; one that takes
    any keyword, as torchvision's builders do, gets ``num_classes``.

    Args:
        builder: A class or function whose other arguments are bound.
        splits: The data, which gives the number of classes and channels and the size of the images.
        seed: Seed of the initial weights.

    Raises:
        InputError: The builder refuses its arguments, or the network does not fit the images.
    """
    channels, height, width = splits.image_shape
    torch.manual_seed(seed)
    model = call_builder(builder, num_classes=len(splits.classes), in_channels=channels, image_size=(height, width))
    check_fit(model, splits)
    return model


def call_builder(builder: ModelBuilder, **known: Any) -> nn.Module:
    """Call a builder with those of the arguments ``known`` that its signature names.

    Raises:
        InputError: The builder refuses its arguments, or builds no ``nn.Module``.
    """
    parameters = inspect.signature(builder).parameters
    any_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    arguments = {name: value for name, value in known.items() if name in parameters}
    if any_keyword:
        arguments["num_classes"] = known["num_classes"]
    try:
        model = builder(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"model: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model: the target built a {type(model).__name__}, not a torch.nn.Module")
    return Network(model) if isinstance(model, nn.Sequential) else model


def check_fit(model: nn.Module, splits: DataSplits) -> None:
    """Pass one image through ``model`` and compare the number of outputs with the number of classes.

    Raises:
        InputError: The network fails, or does not give one logit for each class.
    """
    was_training = model.training
    shape = splits.image_shape
    images = f"{splits.name}'s images of {shape[0]} channel{'s' * (shape[0] != 1)} and {shape[1]}x{shape[2]} pixels"
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape))
    except Exception as error:  # a user's forward may raise anything
        raise InputError(f"model: the network does not fit {images}: {first_line(error)}") from error
    finally:
        model.train(was_training)
    if not isinstance(logits, Tensor) or logits.shape != (1, len(splits.classes)):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"model: for one image the network gives {found}; it must give {len(splits.classes)} logits")
