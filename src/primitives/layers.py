"""Which weights a method works on, and settings that differ from layer to layer."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weight_names(model: nn.Module) -> list[str]:
    """The names of the weights of dense layers and convolutions, in the order of the network; a shared one once."""
    owned = {
        id(module.weight) for module in model.modules() if isinstance(module, WEIGHTED) and module.weight is not None
    }
    return [name for name, parameter in model.named_parameters() if id(parameter) in owned]


def without(names: Sequence[str], ignored: Sequence[str]) -> list[str]:
    """``names`` less those that match a pattern of ``ignored``.

    Raises:
        ValueError: A pattern matches nothing (the nearest names are listed), or nothing is left.
    """
    matched = matching(names, ignored, "ignored")
    left = [name for name in names if name not in matched]
    if not left:
        raise ValueError("ignored leaves no weight to work on")
    return left


def matching(names: Sequence[str], patterns: Sequence[str], setting: str, kind: str = "weight") -> set[str]:
    """Those of ``names`` that match a pattern; raises ValueError for a pattern that matches none."""
    for pattern in patterns:
        require_match(pattern, names, setting, kind)
    return {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}


def per_layer(setting: Any, names: Sequence[str], what: str) -> dict[str, Any]:
    """One value a name: ``setting`` itself, or the value of the first pattern that matches.

    Raises:
        ValueError: A pattern matches no name, or a name no pattern.
    """
    if not isinstance(setting, Mapping):
        return dict.fromkeys(names, setting)
    for pattern in setting:
        require_match(pattern, names, what)
    found: dict[str, Any] = {}
    for name in names:
        matching = [value for pattern, value in setting.items() if fnmatch.fnmatch(name, pattern)]
        if not matching:
            raise ValueError(f"{what}: no pattern matches {name}; add '*' last, for all others")
        found[name] = matching[0]
    return found


def require_match(pattern: str, names: Sequence[str], setting: str, kind: str = "weight") -> None:
    """Raise ValueError, with the nearest names, where ``pattern`` matches none of ``names``."""
    if not fnmatch.filter(names, pattern):
        near = difflib.get_close_matches(pattern, names, 3, 0.3) or list(names[:3])
        raise ValueError(f"{setting}: no {kind} is called {pattern}; the nearest are {', '.join(near)}")


def refuse_shared(model: nn.Module, names: Sequence[str], why: str) -> None:
    """Raise ValueError where two modules hold one of the parameters ``names``; ``why`` says what would go wrong."""
    held: dict[int, list[str]] = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            held.setdefault(id(parameter), []).append(f"{module_name}.{name}".lstrip("."))
    for name in names:
        holders = held[id(model.get_parameter(name))]
        if len(holders) > 1:
            raise ValueError(f"{' and '.join(holders)} are one parameter, and {why}")
