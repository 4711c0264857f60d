"""Building a network for its data: all networks, from any source, are built here."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import DataSplits, InputContract, InputError, ModelBuilder, first_line
from src.models.baking import bake
from src.models.outputs import IMAGES, Say, giving_logits, without_auxiliary
from src.models.weights import MisfitError, Weights, load_weights


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


@dataclass(frozen=True)
class NetworkSource:
    """A network as its configuration describes it.

    Attributes:
        builder: A class or function whose other arguments are bound.
        output: Which of its outputs are the logits (``giving_logits``); None finds them.
        weights: A file of weights; None leaves those that the builder made. A builder whose signature names ``file``
            is given its path, and reads it itself.
    """

    builder: ModelBuilder
    output: str | None = None
    weights: Weights | None = None

    def __call__(self, **known: Any) -> nn.Module:
        """Build for ``num_classes``, ``in_channels`` and ``image_size``, as ``assembled`` does."""
        return assembled(self, **known)


def silent(_: str) -> None:
    """Say nothing."""


def build_model(
    builder: ModelBuilder, splits: DataSplits, seed: int, *, say: Say = silent, auxiliary: bool = False
) -> nn.Module:
    """Build a network that gives one logit for each class, all of its weights plain parameters.

    A builder gets those of ``num_classes``, ``in_channels`` and ``image_size`` that its signature names; one that takes
    any keyword, as torchvision's builders do, gets ``num_classes``.

    Args:
        builder: A class or function whose other arguments are bound, or a ``NetworkSource``.
        splits: The data, which gives the number of classes and channels and the size of the images.
        seed: Seed of the initial weights.
        say: Called with a line for each change that was made to the network or its weights.
        auxiliary: Whether auxiliary logits, which a network has only in training mode, are kept; else they are
            removed.

    Raises:
        InputError: The builder refuses its arguments, or the network or its weights do not fit the images.
    """
    channels, height, width = splits.image_shape
    source = builder if isinstance(builder, NetworkSource) else NetworkSource(builder)
    torch.manual_seed(seed)
    try:
        model = assembled(
            source,
            num_classes=len(splits.classes),
            in_channels=channels,
            image_size=(height, width),
            say=say,
            auxiliary=auxiliary,
        )
    except _RunError as error:
        raise InputError(f"model: the network does not fit {_described(splits)}: {error}") from error
    check_fit(model, splits)
    return model


class _RunError(InputError):
    """The network failed on an image; the message says why."""


def assembled(
    source: NetworkSource,
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    say: Say = silent,
    auxiliary: bool = False,
) -> nn.Module:
    """Build a network, load its weights, make computed weights plain, and make it return logits, in training mode.

    Weights are loaded into the network as it was built. If they do not fit, they are loaded after these changes: a
    checkpoint of this project has the names of the changed network.
    """
    known = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    weights = source.weights
    if weights is not None and "file" in inspect.signature(source.builder).parameters:
        known["file"], weights = weights.path, None
    model = call_builder(source.builder, **known)
    _check_inputs(model)
    misfit = None
    if weights is not None:
        try:
            _load(model, weights, say)
        except MisfitError as error:
            misfit = error
    contract = InputContract.of(model)
    if (
        source.weights is not None
        and contract is None
        and "published_input" in inspect.signature(source.builder).parameters
    ):
        say("images are normalized by their own mean and deviation; for published weights: model.published_input=true")
    model = Network(model) if isinstance(model, nn.Sequential) else model
    images = torch.randn(IMAGES, in_channels, *image_size, generator=torch.Generator().manual_seed(0))
    try:
        baked = bake(model, images)
        if baked:
            say(f"weights that were computed in each forward pass are now plain parameters: {', '.join(baked)}")
        model = giving_logits(model, images, num_classes, source.output, say)
        if not auxiliary:
            without_auxiliary(model, images)
    except InputError:
        raise
    except Exception as error:  # a user's forward may raise anything
        raise _RunError(first_line(error)) from error
    if weights is not None and misfit is not None:
        try:
            _load(model, weights, say)
        except MisfitError:
            raise misfit from None
    if contract is not None:
        model.input_contract = contract  # type: ignore[assignment]
    return model.train()


def _load(model: nn.Module, weights: Weights, say: Say) -> None:
    line = load_weights(model, weights)
    if line:
        say(line)


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
        raise InputError(f"model: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model: the target built a {type(model).__name__}, not a torch.nn.Module")
    return model


def _check_inputs(model: nn.Module) -> None:
    """Raise ``_RunError`` if the network takes more than images."""
    inputs = [
        parameter.name
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if len(inputs) > 1:
        raise _RunError(
            f"it takes {len(inputs)} inputs ({', '.join(inputs)}), and this project gives a network only images"
        )


def _described(splits: DataSplits) -> str:
    shape = splits.image_shape
    return f"{splits.name}'s images of {shape[0]} channel{'s' * (shape[0] != 1)} and {shape[1]}x{shape[2]} pixels"


def check_fit(model: nn.Module, splits: DataSplits) -> None:
    """Pass one image through ``model`` and compare the number of outputs with the number of classes.

    Raises:
        InputError: The network fails, or does not give one logit for each class.
    """
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *splits.image_shape))
    except Exception as error:  # a user's forward may raise anything
        raise InputError(f"model: the network does not fit {_described(splits)}: {first_line(error)}") from error
    finally:
        model.train(was_training)
    if not isinstance(logits, Tensor) or logits.shape != (1, len(splits.classes)):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"model: for one image the network gives {found}; it must give {len(splits.classes)} logits")
