"""The folder of a command's results: named, made and owned before Hydra writes into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from src.command.config_checks import check_keys, check_values
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
                if mode == "sweep":
                    check_shared(config)
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


def check_shared(config: DictConfig) -> None:
    """Check what all members of a survey share, so that a mistake is said once and not by each of them.

    Raises:
        InputError: Nothing reads a key, or a value is wrong.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parameters = dict(config.hydra.sweeper.get("params") or {})
    texts = [*(f"{key}={value}" for key, value in parameters.items()), *config.hydra.overrides.task]
    parsed = [each for each in OverridesParser.create().parse_overrides(texts) if each.is_sweep_override()]
    swept = {(each.package or each.key_or_group).partition(".")[0] for each in parsed}
    if swept & {"experiment", "search"}:  # they may change every part
        return
    own = deepcopy(config)
    OmegaConf.set_struct(own, False)
    OmegaConf.set_readonly(own, False)
    own.pop("hydra")
    try:
        plain: Any = OmegaConf.to_container(own, resolve=True)
    except OmegaConfBaseException:  # the members will say it, if the sweep does not mend it
        return
    check_keys(plain, OmegaConf.to_container(own), config.hydra.job.config_name, sorted(swept))
    check_values(plain, sorted(swept))


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
