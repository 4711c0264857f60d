"""The folder of a command's results: named, made and owned before Hydra writes into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from src.files.owner import LOCK, owning

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What stands in the folder of a command that was refused before it made anything.
EMPTY = ("run.log", "config.yaml", LOCK)


class Refused(BaseException):
    """Carries an error past Hydra, which turns an ``Exception`` of a callback into a warning and goes on."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Folders(Callback):
    """Hydra's callback that owns the folder of a run, search or survey before Hydra writes into it.

    A folder whose name comes from the time (``${now:…}``) is always a new one: if another command has made it in the
    same second, this one takes ``…_2``. A folder that the user names may be there already, but then without a living
    owner.

    Attributes:
        held: Gives the folders up; ``owned_folders`` sets it.
        made: The folder that this command made; None if it was there before.
    """

    held: ExitStack
    made: Path | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Own the folder of a single run or search."""
        self._own(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Own the folder of a survey; its members get its name, too."""
        self._own(config, "sweep")

    def _own(self, config: DictConfig, mode: str) -> None:
        from omegaconf import OmegaConf

        try:
            given: Any = OmegaConf.to_container(config.hydra[mode], resolve=False)
            with _resolving(config):
                named = Path(config.hydra[mode].dir)
            if "${now:" in given["dir"]:
                folder = Folders.made = made_unused(named)
            else:
                folder = named
                Folders.made = folder if made_now(folder) else None
            Folders.held.enter_context(owning(folder.absolute()))
        except Exception as error:
            raise Refused(error) from error
        if folder != named:
            config.hydra[mode].dir = str(folder)
            quoted = str(folder).replace("'", "\\'")
            config.hydra.overrides.hydra.append(f"hydra.{mode}.dir='{quoted}'")  # members are composed from these


@contextmanager
def _resolving(config: DictConfig) -> Iterator[None]:
    """Let ``${hydra:…}`` in ``config`` be resolved, as while a job runs."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(deepcopy(config))  # it makes what it is given read-only
    try:
        yield
    finally:
        hydra.cfg = before


@contextmanager
def owned_folders() -> Iterator[None]:
    """Own while the block runs what Hydra's jobs in it write into.

    Raises:
        InputError: A living command owns the folder; nothing in it was touched.
        OSError: The folder cannot be made.
    """
    Folders.made = None
    with ExitStack() as Folders.held:
        try:
            yield
        except Refused as refused:
            raise refused.error from None


def made_now(folder: Path) -> bool:
    """Make ``folder``, unless it is there; return whether this call made it."""
    with suppress(FileExistsError):  # a file stands for a parent: the next call says so
        folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def made_unused(folder: Path) -> Path:
    """Make ``folder``, or ``folder_2``, ``folder_3``, … if that is there; return the one that this call made."""
    names = (folder if number == 1 else folder.with_name(f"{folder.name}_{number}") for number in count(1))
    return next(name for name in names if made_now(name))


def discard_if_empty() -> None:
    """Remove the folder that this command made, if it was refused before anything was made in it."""
    folder = Folders.made
    if folder is None or any(path.is_file() and path.name not in EMPTY for path in folder.rglob("*")):
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        if path != folder / LOCK:
            path.rmdir() if path.is_dir() else path.unlink()
    (folder / LOCK).unlink(missing_ok=True)  # the last: what is made after it belongs to the next owner
    with suppress(OSError):
        folder.rmdir()
