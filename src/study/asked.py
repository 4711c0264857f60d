"""What the command line of a search asked for, and whether it may."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.contracts import InputError

# Overrides that say nothing of a model begin with one of these.
OF_SEARCH = ("search.", "space.", "~space", "sampler@", "workers=", "worker=", "hydra", "++tracking.tags=")


@dataclass(frozen=True)
class Asked:
    """What the command line asked for.

    Attributes:
        resolved: The whole config.
        choices: Hydra's: which file each group came from.
        overrides: As given, and the threads that are dealt out.
        folder: Of the search, as a user would write it.
        command: That goes on with it.
    """

    resolved: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    folder: Path
    command: str

    @property
    def search(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.resolved["search"]
        return settings

    @property
    def locks(self) -> Path:
        """Beside the stages."""
        return Path(self.resolved["artifacts"]).expanduser().resolve() / ".locks" / "search"

    @property
    def own(self) -> list[str]:
        """What of the command line says something of a model."""
        return [given for given in self.overrides if not given.startswith(OF_SEARCH)]

    def again(self, overrides: Sequence[str]) -> str:
        """The one command that makes a model of the space again."""
        return shlex.join(["python", "-m", "src.run", *self.own, *overrides])


def check(resolved: Mapping[str, Any]) -> None:
    """Raise InputError where a setting of the search is of the wrong kind; ``resolved`` is the whole config."""
    settings = resolved["search"]
    whole = {
        "workers": resolved["workers"],
        **{f"search.{n}": settings[n] for n in ("trials", "finalists", "attempts")},
    }
    for key, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{key} must be a whole number from 1, and is {value}")
    for name in ("objectives", "lengths", "first", "sensitivity_drops"):
        if not isinstance(settings[name], list):
            raise InputError(f"search.{name} must be a list, and is {settings[name]}")
    lengths = settings["lengths"]
    numbers = lengths and all(_is_number(length) for length in lengths)
    if not numbers or lengths != sorted(lengths) or lengths[0] <= 0 or lengths[-1] != 1:
        raise InputError(f"search.lengths must ascend to 1 from more than 0, and are {lengths}")
    if not all(_is_number(drop) for drop in settings["sensitivity_drops"]):
        raise InputError(f"search.sensitivity_drops must be numbers, and are {settings['sensitivity_drops']}")
    if not all(isinstance(point, dict) for point in settings["first"]):
        raise InputError(f"search.first must be a list of points, {{prune.sparsity: 0.9}}, and is {settings['first']}")
    if not re.fullmatch(r"(?!\.)[\w.-]+", str(settings["name"])):
        raise InputError(
            f"search.name must be of letters, digits, '_', '-' and '.', which is not first, and is {settings['name']!r}"
        )
    for name in ("storage", *(["target"] if settings["target"] is not None else [])):
        if not isinstance(settings[name], str):
            raise InputError(f"search.{name} must be a word, and is {settings[name]}")
    if not isinstance(resolved["budget"], dict) or not isinstance(resolved["space"], dict):
        raise InputError("budget and space must hold settings by their keys")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
