"""The jobs of ``python -m src.search``: what the command line asks for, checked before any work."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.command.command_line import read_command_line
from src.command.composition import OPTIONAL, set_values
from src.command.folders import owned_folders
from src.command.help import described
from src.command.jobs import Job, each_job, run_job
from src.contracts import InputError
from src.display.terminal import only_ours, shown

# Parts of the config that all trials of a study share.
SHARED = ("data", "model", "training", "target", "board", "timing", "space", "budget", "seed")
SHARED_SETTINGS = ("objectives", "target", "lengths", "sampler", "first")
OF_MACHINE = ("threads", "device", "devices", "strategy")  # settings of the training that a machine may have of its own
# Overrides that begin with one of these change the search, not the models that it makes.
SEARCH_OVERRIDES = ("search.", "space.", "~space", "sampler@", "workers=", "worker=", "hydra", "++tracking.tags=")


@dataclass(frozen=True)
class SearchJob:
    """What the command line of a search asks for.

    Attributes:
        resolved: The whole config.
        choices: Hydra's choices: which file each group came from.
        overrides: The overrides that were given, and the number of threads if it is calculated.
        folder: Folder of the search, as a user would write it.
        command: The command that continues the search.
    """

    resolved: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    folder: Path
    command: str

    @classmethod
    def of(cls, job: Job) -> SearchJob:
        """The search that a job of Hydra's asks for.

        Raises:
            InputError: A setting of the search is wrong.
        """
        from src.training.recipe import usable_cores

        resolved = job.resolved
        check_settings(resolved)
        overrides = [each for each in job.overrides if not each.startswith(("worker=", "workers="))]
        if resolved["training"]["threads"] == "auto":
            threads = max(1, usable_cores() // resolved["workers"])
            resolved = {**resolved, "training": {**resolved["training"], "threads": threads}}
            overrides.append(f"training.threads={threads}")
        given = [each for each in job.overrides if not each.startswith("worker=")]
        return cls(
            resolved, job.choices, overrides, shown(job.folder), shlex.join(["python", "-m", "src.search", *given])
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings under ``search``."""
        settings: dict[str, Any] = self.resolved["search"]
        return settings

    @property
    def locks(self) -> Path:
        """Folder of the trials' locks, beside the stages."""
        return Path(self.resolved["artifacts"]).expanduser().resolve() / ".locks" / "search"

    @property
    def model_overrides(self) -> list[str]:
        """The overrides that change the models."""
        return [given for given in self.overrides if not given.startswith(SEARCH_OVERRIDES)]

    def study_definition(self, checksum: str) -> dict[str, Any]:
        """The configuration that all trials of the study share; a study continues only with an equal one.

        Args:
            checksum: Checksum of the data.
        """
        from src.stages.identity import files_of

        shared = {name: self.resolved[name] for name in SHARED}
        shared |= {name: set_values(name, shared[name]) for name in OPTIONAL}
        # Where data lies says nothing of it; a machine with other cores may join; files are compared by their content.
        shared["data"] = {**shared["data"], "root": None, "checksum": checksum}
        shared["training"] = {k: v for k, v in shared["training"].items() if k not in OF_MACHINE}
        shared["files"] = files_of(shared["model"])
        return {**shared, "search": {key: self.settings[key] for key in SHARED_SETTINGS}}

    def run_command(self, chain: Sequence[str]) -> str:
        """The command that makes a model of the space again; ``chain`` are the overrides of its chain."""
        return shlex.join(["python", "-m", "src.run", *self.model_overrides, *chain])


def run_search() -> int:
    """Run the search that the command line names, or the search's workers; return the exit code.

    Raises:
        InputError: The command line names no search, or a setting is wrong.
    """
    sys.argv[1:] = read_command_line(sys.argv[1:])
    if not any(given.startswith("+search=") for given in sys.argv[1:]):
        names = ", ".join(name for name, _ in described("search"))
        raise InputError(f"Which search? +search=NAME; there are: {names}")
    if any(given.startswith("worker=") for given in sys.argv[1:]):
        with owned_folders():
            each_job("search", _work)  # an error of a worker leaves Hydra, so that the search hears of it
        return 0
    return run_job("search", _search)


def _search(job: Job) -> int:
    search_job = SearchJob.of(job)
    with only_ours(job.folder / "run.log", verbose=job.resolved["verbose"]) as terminal:
        from src.command.searching import search

        return search(search_job, terminal)


def _work(job: Job) -> None:
    search_job = SearchJob.of(job)
    with only_ours(job.folder / "run.log", verbose=job.resolved["verbose"]) as terminal:
        from src.command.searching import work

        work(search_job, terminal)


def check_settings(resolved: Mapping[str, Any]) -> None:
    """Check the settings of a search; ``resolved`` is the whole config.

    Raises:
        InputError: A setting is of the wrong kind.
    """
    settings = resolved["search"]
    counts = {
        "workers": resolved["workers"],
        **{f"search.{name}": settings[name] for name in ("trials", "finalists", "attempts")},
    }
    for key, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{key} must be a whole number from 1, and is {value}")
    for name in ("objectives", "lengths", "first", "sensitivity_drops"):
        if not isinstance(settings[name], list):
            raise InputError(f"search.{name} must be a list, and is {settings[name]}")
    _check_lengths(settings["lengths"])
    if not all(_is_number(drop) for drop in settings["sensitivity_drops"]):
        raise InputError(f"search.sensitivity_drops must be numbers, and are {settings['sensitivity_drops']}")
    if not all(isinstance(point, dict) for point in settings["first"]):
        raise InputError(f"search.first must be a list of points, {{prune.sparsity: 0.9}}, and is {settings['first']}")
    if not re.fullmatch(r"(?!\.)[\w.-]+", str(settings["name"])):
        raise InputError(
            "search.name must be of letters, digits, '_', '-' and '.', and not begin with '.', and is "
            f"{settings['name']!r}"
        )
    for name in ("storage", *(["target"] if settings["target"] is not None else [])):
        if not isinstance(settings[name], str):
            raise InputError(f"search.{name} must be a word, and is {settings[name]}")
    if not isinstance(resolved["budget"], dict) or not isinstance(resolved["space"], dict):
        raise InputError("budget and space must hold settings by their keys")


def _check_lengths(lengths: list[Any]) -> None:
    numbers = lengths and all(_is_number(length) for length in lengths)
    if not numbers or lengths != sorted(lengths) or lengths[0] <= 0 or lengths[-1] != 1:
        raise InputError(f"search.lengths must ascend to 1 from more than 0, and are {lengths}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
