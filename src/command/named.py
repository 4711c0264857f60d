"""The objects that files of ``conf/`` describe, for a Python program: each with the config that made it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

from src.command.composition import build, composed, network_of, set_values
from src.command.config_checks import COMPUTE
from src.command.exits import CONF, explain_composition, nearest
from src.contracts import DataSource, InputError, ModelBuilder, Recipe, Target
from src.experiment.described import config_of
from src.experiment.plan import Part

T = TypeVar("T")


@dataclass(frozen=True)
class Named(Part[T]):
    """An object, the resolved config that made it, and what people call it.

    Attributes:
        name: Name of its file in ``conf/``.
    """

    name: str


def method(name: str, *, training: str = "default", **settings: Any) -> Named[Any]:
    """A compression method, or a chain of them, as ``conf/method`` describes it.

    Args:
        name: Name of the file, e.g. ``prune_magnitude``.
        training: File of ``conf/training`` from which the method's own fine-tuning follows: a third of its epochs, say.
        settings: Values in place of the file's, e.g. ``sparsity=0.9`` or ``fine_tune={"epochs": 3}``.

    Raises:
        InputError: There is no such file or setting, or a value is wrong.

    Example:
        >>> method("prune_magnitude", sparsity=0.9).value.sparsity
        0.9
    """
    config = _config("method", name, settings, training=training)
    return Named(build({"method": config}, "method"), config, name)


def target(name: str, **settings: Any) -> Named[Target]:
    """Where a model is to run, as ``conf/target`` describes it, e.g. ``onnxruntime``; raises InputError.

    Example:
        >>> target("onnxruntime").value.ending
        'onnx'
    """
    config = _merged(_composed("target", name)["target"][name], settings)
    return Named(build({"target": config}, "target"), config, name)


def recipe(name: str = "default", **settings: Any) -> Named[Recipe]:
    """How a network is trained, as ``conf/training`` describes it; raises InputError.

    Example:
        >>> recipe("digits", epochs=3).value.epochs
        3
    """
    config = {key: value for key, value in _composed("training", name)["training"].items() if key not in COMPUTE}
    config = _merged(set_values("training", config), settings)
    return Named(build({"training": config}, "training"), config, name)


def dataset(name: str, **settings: Any) -> Named[DataSource]:
    """A data set as ``conf/data`` describes it, e.g. ``dataset("image_folder", root="photos")``; raises InputError.

    Example:
        >>> dataset("digits").value.load().image_shape
        (1, 8, 8)
    """
    config = set_values("data", _config("data", name, settings))
    return Named(build({"data": config}, "data"), config, name)


def network(name: str, **settings: Any) -> Named[ModelBuilder]:
    """A network as ``conf/model`` describes it, e.g. ``network("resnet20")``; raises InputError."""
    source, config, called = network_of(_config("model", name, settings), name)
    return Named(source, config, called)


def _config(group: str, name: str, settings: Mapping[str, Any], **beside: str) -> dict[str, Any]:
    return _merged(_composed(group, name, **beside)[group], settings)


def _merged(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``settings`` over it, key by key; an object takes the place of the whole key."""
    merged = deepcopy(dict(config))
    for key, value in settings.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and "_target_" not in value:
            merged[key] = _merged(before, value)
        else:
            merged[key] = config_of(value)
    return merged


@functools.lru_cache(maxsize=64)
def _composed(group: str, name: str, **beside: str) -> dict[str, Any]:
    """The whole config with one file chosen; whoever changes it must copy it first."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    for folder, file in {group: name, **beside}.items():
        known = sorted(path.stem for path in (CONF / folder).glob("*.yaml"))
        if not re.fullmatch(r"[\w.-]+", file) or file not in known:
            raise InputError(f"There is no {folder} '{file}'.{nearest(file, known)}")
    chosen = f"target=[{name}]" if group == "target" else f"{group}={name}"
    try:
        return composed([chosen, *(f"{folder}={file}" for folder, file in beside.items())])[0]
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain_composition(error)) from error


def defaults() -> dict[str, Any]:
    """The whole config of a run for which nothing was chosen."""
    return _composed("method", "baseline")
