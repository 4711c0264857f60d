"""Networks of torchvision that classify images, by name."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.contracts import InputContract, InputError
from src.models.checkpoints import read_checkpoint


def torchvision_network(
    *,
    name: str,
    pretrained: bool,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    published_input: bool = False,
    **settings: Any,
) -> nn.Module:
    """Build a network of torchvision, its head made for the data's classes and its first layer for the data's channels.

    Args:
        name: torchvision's name, e.g. ``mobilenet_v3_small``.
        pretrained: Whether its published weights are loaded; they must lie in torch's cache on this machine.
        num_classes, in_channels, image_size: Number of classes and image channels; ``(height, width)`` of the images.
        published_input: Whether images are normalized as the published weights expect; always if ``pretrained``.
        settings: More arguments of torchvision's builder, e.g. ``dropout``.

    Raises:
        InputError: torchvision has no such network, or its weights do not lie in the cache.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5)
        question = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"model.name: torchvision has no network '{name}' for classification.{question}")
    builder = models.get_model_builder(name)
    if typing.get_type_hints(builder).get("return") is models.VisionTransformer:
        settings.setdefault("image_size", image_size[0])
    if name in ("googlenet", "inception_v3"):
        settings.setdefault("init_weights", False)  # or it warns, and takes half a minute
    if not pretrained:
        model = _with_channels(builder(weights=None, num_classes=num_classes, **settings), in_channels)
        if published_input:
            model.input_contract = _contract(models.get_model_weights(name).DEFAULT, in_channels)  # type: ignore[assignment]
        return model
    published = models.get_model_weights(name).DEFAULT
    model = builder(weights=None, num_classes=len(published.meta["categories"]), **settings)
    values = {key: found.value for key, found in read_checkpoint(_cached(name, published)).items()}
    own = model.state_dict()
    try:
        if set(values) != set(own):
            raise RuntimeError(f"names differ, e.g. {sorted(set(values) ^ set(own))[0]}")
        own.update(
            values
        )  # into its own state, which names the versions of its layers: MNASNet refuses to load without
        model.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(f"model.pretrained: the cached weights of {name} do not fit the network: {error}") from error
    model = _with_channels(_with_head(model, len(published.meta["categories"]), num_classes), in_channels)
    model.input_contract = _contract(published, in_channels)  # type: ignore[assignment]
    return model


def _contract(published: Any, channels: int) -> InputContract:
    transforms = published.transforms()
    return InputContract(
        size=(transforms.crop_size[0], transforms.crop_size[0]),
        interpolation=transforms.interpolation.value,
        crop=transforms.crop_size[0] / transforms.resize_size[0],
        mean=tuple(transforms.mean) if channels == 3 else None,
        std=tuple(transforms.std) if channels == 3 else None,
    )


def _cached(name: str, published: Any) -> Path:
    """The file of the published weights in torch's cache."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
    if not path.is_file():
        raise InputError(
            f"model.pretrained: the weights of {name} are not in {path.parent}; this line downloads them: "
            f"python -c \"import torchvision; torchvision.models.get_model('{name}', weights='DEFAULT')\"; "
            f"to use a file: model.weights=FILE model.published_input=true model.replace_head=true"
        )
    return path


def _with_channels(model: nn.Module, channels: int) -> nn.Module:
    """Replace the first convolution of ``model`` if it has another number of input channels.

    The sum of the weights over the channels is kept: a grey image gives the outputs of three equal channels.
    """
    name, first = next((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if first.in_channels == channels:
        return model
    new = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    with torch.no_grad():
        new.weight.copy_(first.weight.sum(1, keepdim=True) / channels)
        if new.bias is not None and first.bias is not None:
            new.bias.copy_(first.bias)
    _put(model, name, new)
    return model


def _with_head(model: nn.Module, published: int, classes: int) -> nn.Module:
    """Replace the last layer of ``model`` by a new one for ``classes`` classes."""
    if published == classes:
        return model
    heads = [
        (name, module)
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == published)
        or (isinstance(module, nn.Conv2d) and module.out_channels == published)
    ]
    for name, head in heads:  # more than one if there are auxiliary ones
        if isinstance(head, nn.Linear):
            _put(model, name, nn.Linear(head.in_features, classes, bias=head.bias is not None))
        else:
            _put(model, name, nn.Conv2d(head.in_channels, classes, head.kernel_size))  # type: ignore[arg-type]
    return model


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
