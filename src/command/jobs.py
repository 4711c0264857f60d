"""Hydra's jobs: each is composed once, handed to a room as plain values, and its error kept rather than raised."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.command.config_checks import check_keys, check_values
from src.command.exits import CONF, WRONG_INPUT, explain
from src.contracts import InputError

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Job:
    """What Hydra composed for one job.

    Attributes:
        config: The whole config.
        choices: Hydra's choices: which file each group came from.
        overrides: What Hydra was given.
        folder: Folder of the job's results.
        survey: The folder of the multirun that the job is a member of; None for a single run.
        number: Number of the job in its multirun, counted from 0.
    """

    config: DictConfig
    choices: dict[str, str]
    overrides: list[str]
    folder: Path
    survey: Path | None
    number: int

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The whole config as plain dicts and lists, checked as far as is possible without torch.

        Raises:
            InputError: Nothing reads a key, or a value is of the wrong kind.
            MissingMandatoryValue: A value is missing.
        """
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        raw = OmegaConf.to_container(self.config)
        check_keys(OmegaConf.to_container(self.config, resolve=True), raw, HydraConfig.get().job.config_name)  # type: ignore[arg-type]
        plain: dict[str, Any] = OmegaConf.to_container(self.config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
        check_values(plain)
        return plain

    @property
    def command(self) -> str:
        """The command that makes a run of ``src.run`` again."""
        single = ["hydra.mode=RUN"] if self.survey is not None else []
        return " ".join(["python -m src.run", *map(shlex.quote, self.overrides), *single])

    def write_config(self) -> None:
        """Write ``config.yaml``, the whole config, into the job's folder."""
        from omegaconf import OmegaConf

        from src.files.writing import write_text

        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self.resolved)))

    @classmethod
    def current(cls, config: DictConfig) -> Job:
        """The running job of Hydra's."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import OmegaConf

        hydra_config = HydraConfig.get()
        several = hydra_config.mode is RunMode.MULTIRUN
        return cls(
            config,
            dict(hydra_config.runtime.choices),
            OmegaConf.to_container(hydra_config.overrides.task, resolve=False),  # type: ignore[arg-type]
            Path(hydra_config.runtime.output_dir),
            Path(hydra_config.sweep.dir).absolute() if several else None,
            hydra_config.job.num if several else 0,
        )


def each_job(config_name: str, task: Callable[[Job], object]) -> None:
    """Let Hydra compose what the command line says and call ``task`` for each job; an error ends them.

    Args:
        config_name: The file of ``conf/`` that jobs are composed from.
        task: Called with each job, perhaps in another process (a launcher's), which ends with the one that started it.
    """
    import hydra

    from src.command.command_line import overrides, read_command_line, remarks
    from src.command.composition import composed, register_resolvers
    from src.command.parents import end_with_parent

    sys.argv[1:] = read_command_line(sys.argv[1:])
    for line in remarks(sys.argv[1:]):
        print(line, file=sys.stderr)
    options = set(sys.argv[1:])
    if {"--cfg", "-c"} & options and not {
        "-m",
        "--multirun",
    } & options:  # Hydra shows it without a job that checks keys
        composed(overrides(sys.argv[1:]), config_name)
    register_resolvers()
    command = os.getpid()

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def job(config: DictConfig) -> None:
        if os.getpid() != command:
            end_with_parent()
        task(Job.current(config))

    job()


def run_jobs(config_name: str, task: Callable[[Job], int | None]) -> tuple[list[int], list[Exception]]:
    """``each_job``, with an error kept so that other members go on, and Hydra prints nothing of its own.

    Args:
        config_name: The file of ``conf/`` that jobs are composed from.
        task: Called with each job; returns its exit code. In another process codes and errors are lost, so that what
            must be known of a survey's members stands in their folders.

    Returns:
        The exit codes and the errors.
    """
    from src.command.folders import discard_if_empty

    codes: list[int] = []
    errors: list[Exception] = []

    def kept(job: Job) -> None:
        try:
            codes.append(task(job) or 0)
        except Exception as error:
            if job.survey is None and explain(error)[1] == WRONG_INPUT:
                discard_if_empty()
            errors.append(error)

    each_job(config_name, kept)
    return codes, errors


def run_job(config_name: str, task: Callable[[Job], int | None]) -> int:
    """``run_jobs`` for a command that is one job: its error is raised, its exit code returned."""
    from src.command.folders import owned_folders

    if {"-m", "--multirun"} & set(sys.argv):
        raise InputError("-m is for python -m src.run alone: this command takes one value for each key")
    with owned_folders():
        codes, errors = run_jobs(config_name, task)
    if errors:
        raise errors[0]
    return max(codes, default=0)
