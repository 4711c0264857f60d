"""What determines an object that a Python program made: the config that it could have been made from."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.contracts import Recipe
from src.stages.identity import digest

PLAIN = (str, int, float, bool, type(None))
RECIPE = "src.training.recipe.Recipe"  # as configs call it
STATE = "_parameters", "_buffers", "_modules", "training"  # attributes of a module that are described otherwise


class UndescribedError(Exception):
    """Nothing says what determines the object, so that a stage made with it cannot be found again."""


def config_of(value: Any) -> Any:
    """The config from which an equal object could be made, with a ``_target_`` for each class and function.

    Args:
        value: A plain value, a list or mapping of values, a path, a function or class of a module, a ``partial``, or an
            object that keeps each argument of its constructor as an attribute of the same name.

    Raises:
        UndescribedError: The value is another, e.g. a lambda or an object that hides what it was made of.

    Example:
        >>> from src.primitives.schedules import Cubic
        >>> config_of(Cubic(begin=0.0, end=0.6, updates=40))
        {'_target_': 'src.primitives.schedules.Cubic', 'begin': 0.0, 'end': 0.6, 'updates': 40}
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): config_of(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [config_of(each) for each in value]
    if isinstance(value, functools.partial):
        bound = inspect.signature(value.func).bind_partial(*value.args, **value.keywords).arguments
        return {"_target_": _name(value.func), "_partial_": True, **_named(bound)}
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return {"_target_": _name(value), "_partial_": True}
    if isinstance(value, Recipe):
        return {"_target_": RECIPE, **_arguments(value)}
    return {"_target_": _name(type(value)), **_arguments(value)}


def network_config(model: nn.Module) -> dict[str, Any]:
    """What determines a network: its class, its weights, its structure and the plain settings of its modules.

    Raises:
        UndescribedError: The code of a class cannot be read.
    """
    weights = hashlib.sha256()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        kept = tensor.detach().cpu().contiguous()
        weights.update(f"{name} {tuple(kept.shape)} {kept.dtype}\0".encode())
        weights.update(kept.flatten().view(torch.uint8).numpy().data)
    modules = [[name, *_settings(module)] for name, module in model.named_modules()]
    return {
        "_target_": f"{type(model).__module__}.{type(model).__qualname__}",
        "weights_sha256": weights.hexdigest(),
        "structure": digest(repr([modules, sorted({_code(type(module)) for module in model.modules()})])),
    }


def _settings(module: nn.Module) -> tuple[str, list[tuple[str, Any]]]:
    """The class of a module and its attributes of plain values."""
    kept = [(key, value) for key, value in vars(module).items() if key not in STATE and _is_plain(value)]
    return type(module).__qualname__, sorted(kept)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _code(of: type) -> str:
    """The class, by its source unless it is installed, where its package's version says it."""
    module = inspect.getmodule(of)
    file = getattr(module, "__file__", None) or ""
    if {"site-packages", "dist-packages"} & set(Path(file).parts):
        return f"{of.__module__}.{of.__qualname__}"
    try:
        return inspect.getsource(of)
    except (OSError, TypeError) as error:
        raise UndescribedError(f"the source of {of.__qualname__} cannot be read") from error


def _arguments(value: Any) -> dict[str, Any]:
    """The arguments that would make ``value``, as attributes of their names keep them."""
    arguments = {}
    for name, parameter in inspect.signature(type(value).__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(value, name):
            raise UndescribedError(f"{type(value).__qualname__} does not keep its argument {name}")
        kept = getattr(value, name)
        if parameter.default is parameter.empty or kept != parameter.default:
            arguments[name] = config_of(kept)
    return arguments


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configs of arguments; those of ``**keywords`` stand beside the others."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= value if isinstance(value, dict) and name in ("kwargs", "keywords") else {name: value}
    return {name: config_of(value) for name, value in flat.items()}


def _name(of: Any) -> str:
    """The shortest dotted name by which a class or function can be imported."""
    module, name = getattr(of, "__module__", None), getattr(of, "__qualname__", "")
    if not module or module == "__main__" or "<" in name:
        raise UndescribedError(f"{name or of} can be imported from no module")
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        if getattr(sys.modules.get(".".join(parts[:length])), name, None) is of:
            return ".".join([*parts[:length], name])
    raise UndescribedError(f"{name} can be imported from no module")
