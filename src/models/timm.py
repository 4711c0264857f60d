"""Networks of the library timm, by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.contracts import InputContract, InputError

if TYPE_CHECKING:
    from torch import nn

FILES = ("model.safetensors", "pytorch_model.bin")  # of a repository of the hub, the better one first


def timm_network(
    *,
    name: str,
    pretrained: bool,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    published_input: bool = False,
    **settings: Any,
) -> nn.Module:
    """Build a network of timm, its head made for the data's classes and its first layer for the data's channels.

    Args:
        name: timm's name, e.g. ``mobilenetv3_small_050``, or with the tag of its weights ``resnet18.a1_in1k``.
        pretrained: Whether its published weights are loaded; they must be in a cache of this machine.
        num_classes, in_channels, image_size: Number of classes and image channels; ``(height, width)`` of the images.
        published_input: Whether images are normalized as the published weights expect; always if ``pretrained``.
        settings: More arguments of ``timm.create_model``, e.g. ``drop_rate``.

    Raises:
        InputError: timm is not installed, or has no such network, or no weights of it lie in a cache.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError("model=timm needs timm, which is not installed: pip install '.[timm]'") from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), 3, 0.5)
        question = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"model.name: timm has no network '{name}'.{question}")
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        raise InputError(f"model.name: timm has no weights '{name.partition('.')[2]}' of {name.partition('.')[0]}")
    if config.fixed_input_size:  # a network with a fixed number of patches
        settings.setdefault("img_size", image_size)
    if pretrained:
        settings["pretrained_cfg_overlay"] = {"file": str(_cached(name, config)), "custom_load": False}
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **settings
        )
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"model: timm cannot build {name} with these settings: {error}") from error
    if pretrained or published_input:
        model.input_contract = _contract(config, in_channels)  # type: ignore[assignment]
    return model


def _cached(name: str, config: Any) -> Path:
    """The file of the published weights, in the hub's cache or torch's."""
    import torch
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id and not config.url:
        raise InputError(
            f"model.pretrained: there are no published weights of {name}; model.pretrained=false trains it"
        )
    for file in (config.hf_hub_filename,) if config.hf_hub_filename else FILES:
        found = try_to_load_from_cache(config.hf_hub_id, file) if config.hf_hub_id else None
        if isinstance(found, str):
            return Path(found)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url or "none").name
    if path.is_file() and not config.custom_load:
        return path
    raise InputError(
        f"model.pretrained: the weights of {name} are in no cache of this machine; this line downloads them: "
        f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\"; to use a file: "
        f"model.weights=FILE model.published_input=true model.replace_head=true"
    )


def _contract(config: Any, channels: int) -> InputContract:
    mean, std = (tuple(values) if channels == len(values) else None for values in (config.mean, config.std))
    grey = channels == 1
    return InputContract(
        size=tuple(config.input_size[1:]),
        interpolation=config.interpolation,
        crop=config.crop_pct if config.crop_mode == "center" else None,
        mean=mean or ((sum(config.mean) / len(config.mean),) if grey else None),
        std=std or ((sum(config.std) / len(config.std),) if grey else None),
    )
