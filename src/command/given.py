"""What a Python program gives for an experiment, as parts of a plan: each object beside the config that names it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from src.command import named
from src.contracts import (
    DataSource,
    DataSplits,
    InputError,
    Method,
    ModelBuilder,
    Recipe,
    Target,
    TrainingLoop,
    as_method,
)
from src.data.images import checksum
from src.data.loaders import Images, renamed, splits
from src.experiment.described import UndescribedError, config_of, network_config
from src.experiment.plan import Part
from src.methods.chain import Chain

Network = nn.Module | ModelBuilder | Part[ModelBuilder]
Data = DataSplits | DataSource | Part[DataSource] | tuple[Images, Images, Images]
Step = str | Method | Part[Any]
Steps = Sequence[Step] | Mapping[str, Step]
Targets = Sequence[str | Target | Part[Target]]
Training = Recipe | Part[Recipe] | TrainingLoop | None
SPLITS = "src.data.loaders.splits"  # what makes the data of a program


class Loaded:
    """A data source that is loaded already.

    Args:
        data: What it loads.
    """

    def __init__(self, data: DataSplits) -> None:
        self.data = data

    def load(self) -> DataSplits:
        """The data."""
        return self.data


class Copies:
    """Builds a network by copying one.

    Args:
        model: The network; it is left as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self) -> nn.Module:
        return copy.deepcopy(self.model).cpu()


class Given:
    """Turns what was given into parts of a plan.

    Args:
        identity: The user's name for whatever has no other.

    Attributes:
        unknown: What has no other, each with the reason.
    """

    def __init__(self, identity: str | None) -> None:
        self.identity, self.unknown = identity, list[str]()

    def steps(self, methods: Steps) -> dict[str, Part[Method]]:
        """The steps by name, in order; a chain gives its own.

        Raises:
            InputError: There is no method of a name, or one is no method.
        """
        given = methods.items() if isinstance(methods, Mapping) else ((None, each) for each in _listed(methods))
        found: dict[str, Part[Method]] = {}
        for name, each in given:
            part = named.method(each) if isinstance(each, str) else each
            value = part.value if isinstance(part, Part) else part
            if isinstance(value, Chain):
                configs = part.config["steps"] if isinstance(part, Part) else {}
                for step, inner in value.steps.items():
                    config = configs.get(step) or self._config(f"step {step}", inner)
                    found[_unused(step, found)] = Part(inner, config)
                continue
            called = name or (part.name if isinstance(part, named.Named) else _snake(type(value).__name__))
            try:
                step_value = as_method(value)
            except TypeError as error:
                raise InputError(f"step {called} is {error}") from error
            config = part.config if isinstance(part, Part) else self._config(f"step {called}", value)
            found[_unused(called, found)] = Part(step_value, config)
        return found

    def targets(self, targets: Targets) -> dict[str, Part[Target]]:
        """The targets by name; raises InputError if there is none, or one is no target."""
        found: dict[str, Part[Target]] = {}
        for each in _listed(targets):
            part = named.target(each) if isinstance(each, str) else each
            value = part.value if isinstance(part, Part) else part
            if not isinstance(value, Target):
                raise InputError(f"targets has a {type(value).__name__}, which is no src.contracts.Target")
            called = part.name if isinstance(part, named.Named) else type(value).__module__.rpartition(".")[2]
            config = part.config if isinstance(part, Part) else self._config(f"target {called}", value)
            found[_unused(called, found)] = Part(value, config)
        if not found:
            raise InputError('targets is empty: name at least one, targets=["onnxruntime"]')
        return found

    def data(self, data: Data) -> Part[DataSource]:
        """The data; raises InputError if it is none."""
        if isinstance(data, Part):
            return data
        if not isinstance(data, (tuple, list, DataSplits)) and hasattr(data, "load"):
            return Part(data, self._config("data", data))
        if isinstance(data, (tuple, list)):
            if len(data) != 3:
                raise InputError(f"data must be three parts (training, validation, test), and has {len(data)}")
            data = splits(*data)
        if not isinstance(data, DataSplits):
            raise InputError(f"data is a {type(data).__name__}: give DataSplits, or (training, validation, test)")
        settings = {key: getattr(data, key) for key in ("name", "classes", "mean", "std", "augmentation", "mixing")}
        config = {"_target_": SPLITS, **self._config("data", settings)}
        if data.loader is not None:
            config |= self._only_named("data", "a loader")
            data = renamed(data, str(self.identity))
        else:
            data = named_by_content(data)
        return Part(Loaded(data), config)

    def network(self, model: Network) -> tuple[Part[ModelBuilder], str]:
        """What builds the network, and what people call it; raises InputError if nothing does."""
        if isinstance(model, Part):
            return model, model.name if isinstance(model, named.Named) else "network"
        if isinstance(model, nn.Module):
            called = _snake(type(model).__name__)
            return Part(Copies(model), self._config("model", model, network_config)), called
        if not callable(model):
            raise InputError(f"model is a {type(model).__name__}: give a torch.nn.Module, or what builds one")
        called = getattr(getattr(model, "func", model), "__name__", "network")
        return Part(model, self._config("model", model)), _snake(called)

    def training(self, train: Training) -> tuple[Part[Recipe], Part[TrainingLoop] | None]:
        """The recipe, and the loop that takes its place; the default recipe says the loss if there is none."""
        default = named.recipe()
        if train is None:
            return default, None
        if isinstance(train, Part):
            return train, None
        if isinstance(train, Recipe):
            return Part(train, self._config("train", train)), None
        if not callable(train):
            raise InputError(f"train is a {type(train).__name__}: give a recipe, a function, or None")
        return default, Part(train, {**self._only_named("train", "a loop"), "loss": default.config["loss"]})

    def _config(self, what: str, value: Any, describe: Callable[[Any], Any] = config_of) -> dict[str, Any]:
        try:
            return dict(describe(value))
        except UndescribedError as error:
            return self._only_named(what, str(error))

    def _only_named(self, what: str, reason: str) -> dict[str, Any]:
        """The config of something that only the user can name."""
        self.unknown.append(f"{what} ({reason})")
        return {f"{what} named": self.identity}


def named_by_content(data: DataSplits) -> DataSplits:
    """The data with the checksum of its pixels and labels, whatever checksum it came with."""
    return replace(data, checksum=checksum(data.train, data.validation, data.test))


def _listed(given: Any) -> Sequence[Any]:
    """A list; a single name or object counts as one."""
    return given if isinstance(given, (list, tuple)) else [given]


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """``name``, or ``name_2``, ``name_3``, … if it is taken."""
    names = [name, *(f"{name}_{number}" for number in range(2, len(taken) + 2))]
    return next(each for each in names if each not in taken)


def _snake(name: str) -> str:
    """``QuantizeInt8`` as ``quantize_int8``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
