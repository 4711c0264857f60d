"""Which weights a method works on, and settings that differ from layer to layer."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import nn

Setting = TypeVar("Setting")
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weight_names(model: nn.Module) -> list[str]:
    """List the weights of dense layers and convolutions by name, in the order of the network.

    A weight that two layers share is listed once.

    >>> weight_names(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)))
    ['0.weight', '3.weight']
    """
    owned = {
        id(module.weight) for module in model.modules() if isinstance(module, WEIGHTED) and module.weight is not None
    }
    return [name for name, parameter in model.named_parameters() if id(parameter) in owned]


def layer_name(weight_name: str) -> str:
    """The name of the layer that holds a weight.

    >>> layer_name("features.0.weight")
    'features.0'
    """
    return weight_name.rpartition(".")[0]


def without(names: Sequence[str], ignored: Sequence[str]) -> list[str]:
    """Remove from ``names`` those that match a pattern of ``ignored``.

    Raises:
        ValueError: A pattern matches no name (the nearest names are listed), or no name is left.

    >>> without(["conv.weight", "fc.weight"], ["fc.*"])
    ['conv.weight']
    """
    matched = matching(names, ignored, "ignored")
    left = [name for name in names if name not in matched]
    if not left:
        raise ValueError("ignored leaves no weight to work on")
    return left


def matching(names: Sequence[str], patterns: Sequence[str], setting: str, kind: str = "weight") -> set[str]:
    """Select the names that match at least one pattern.

    Args:
        names: Names of weights or layers.
        patterns: Shell patterns, e.g. ``features.*``.
        setting: Name of the setting that holds the patterns, for the message.
        kind: What the names are names of, for the message.

    Raises:
        ValueError: A pattern matches no name; the nearest names are listed.

    >>> sorted(matching(["features.0.weight", "features.3.weight", "fc.weight"], ["features.*"], "ignored"))
    ['features.0.weight', 'features.3.weight']
    """
    for pattern in patterns:
        require_match(pattern, names, setting, kind)
    return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}


def per_layer(setting: Setting | Mapping[str, Setting], names: Sequence[str], what: str) -> dict[str, Setting]:
    """Give each name its value of a setting: the same for all, or that of the first pattern that matches.

    Args:
        setting: One value, or values by shell pattern.
        names: Names of weights.
        what: Name of the setting, for the message.

    Raises:
        ValueError: A pattern matches no name, or a name matches no pattern.

    >>> per_layer({"conv*": 8, "*": 4}, ["conv.weight", "fc.weight"], "bits")
    {'conv.weight': 8, 'fc.weight': 4}
    """
    if not isinstance(setting, Mapping):
        return dict.fromkeys(names, setting)
    for pattern in setting:
        require_match(pattern, names, what)
    found: dict[str, Setting] = {}
    for name in names:
        values = [value for pattern, value in setting.items() if fnmatch.fnmatch(name, pattern)]
        if not values:
            raise ValueError(f"{what}: no pattern matches {name}; add '*' last, for all others")
        found[name] = values[0]
    return found


def require_match(pattern: str, names: Sequence[str], setting: str, kind: str = "weight") -> None:
    """Raise ValueError, with the nearest names, if ``pattern`` matches none of ``names``.

    >>> require_match("clasifier.*", ["features.0", "classifier.1"], "ignored", "layer")
    Traceback (most recent call last):
    ValueError: ignored: no layer is called clasifier.*; the nearest are classifier.1, features.0
    """
    if not fnmatch.filter(names, pattern):
        near = difflib.get_close_matches(pattern, names, 3, 0.3) or list(names[:3])
        raise ValueError(f"{setting}: no {kind} is called {pattern}; the nearest are {', '.join(near)}")


def refuse_shared(model: nn.Module, names: Sequence[str], reason: str) -> None:
    """Raise ValueError if two modules share one of the parameters ``names``; ``reason`` says what would go wrong.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> model[1].weight = model[0].weight
    >>> refuse_shared(model, ["0.weight"], "pruning would untie them")
    Traceback (most recent call last):
    ValueError: 0.weight and 1.weight are one parameter, and pruning would untie them
    """
    holders: dict[int, list[str]] = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(f"{module_name}.{name}".lstrip("."))
    for name in names:
        shared_by = holders[id(model.get_parameter(name))]
        if len(shared_by) > 1:
            raise ValueError(f"{' and '.join(shared_by)} are one parameter, and {reason}")
