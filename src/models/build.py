"""Building any network for the data it will see."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import DataSplits, InputError, ModelBuilder, first_line


class Network(nn.Module):
    """A root that is no ``nn.Sequential``: hooks added to one as children would be called as layers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.net(images)
        return result


def build_model(builder: ModelBuilder, splits: DataSplits, seed: int) -> nn.Module:
    """Build a network and pass one image through it.

    ``num_classes``, ``in_channels`` and ``image_size`` are given to a builder that names them; ``num_classes`` also
    to one that takes any keyword, as torchvision's builders do.

    Args:
        builder: A class or function, its own arguments bound.
        splits: The data, which says how many classes and channels there are.
        seed: Of the initial weights.

    Raises:
        InputError: The builder refuses its arguments, or the network does not fit the images.
    """
    channels, height, width = splits.image_shape
    torch.manual_seed(seed)
    model = call_builder(builder, num_classes=len(splits.classes), in_channels=channels, image_size=(height, width))
    check_fit(model, splits)
    return model


def call_builder(builder: ModelBuilder, **known: Any) -> nn.Module:
    """Call a builder with what it names of ``known``; raises InputError where it refuses or builds no module."""
    parameters = inspect.signature(builder).parameters
    any_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    wanted = {name: value for name, value in known.items() if name in parameters}
    if any_keyword:
        wanted["num_classes"] = known["num_classes"]
    try:
        model = builder(**wanted)
    except (TypeError, ValueError) as error:
        raise InputError(f"model: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model: the target built a {type(model).__name__}, not a torch.nn.Module")
    return Network(model) if isinstance(model, nn.Sequential) else model


def check_fit(model: nn.Module, splits: DataSplits) -> None:
    """Pass one image through ``model`` and compare the number of outputs with the number of classes.

    Raises:
        InputError: It fails, or does not give one logit a class.
    """
    was_training = model.training
    shape = splits.image_shape
    spoken = f"{splits.name}'s images of {shape[0]} channel{'s' * (shape[0] != 1)} and {shape[1]}x{shape[2]} pixels"
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape))
    except Exception as error:  # a user's forward may raise anything
        raise InputError(f"model: the network does not fit {spoken}: {first_line(error)}") from error
    finally:
        model.train(was_training)
    if not isinstance(logits, Tensor) or logits.shape != (1, len(splits.classes)):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"model: for one image the network gives {found}; wanted are {len(splits.classes)} logits")
