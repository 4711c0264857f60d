"""What a config that a command reads from a file may do: choose plain options of classes that stand in ``conf/``.

What a user types, or keeps in ``conf/``, is trusted like code. A ``config.yaml`` beside a model file, or in a folder of
results, may come from anybody.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.command.exits import CONF
from src.contracts import InputError

TRUST = "--trust builds it nevertheless: it can then run any code on this machine"
HELP = "build any class that a config.yaml beside the file names: it can then run any code on this machine"


def read_config(path: Path) -> dict[str, Any]:
    """Read a config as plain data; its interpolations stay text.

    Raises:
        InputError: The file is no mapping in YAML, or repeats parts of itself by aliases, which no command writes.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        text = path.read_text(encoding="utf-8")
        repeats = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        content: Any = None if repeats else OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is no YAML that a run wrote") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it is no config that a run wrote")
    return content


@functools.cache
def classes_in_conf(group: str) -> frozenset[str]:
    """Every ``_target_`` in the files of ``conf/<group>``, at any depth."""
    configs = [read_config(path) for path in (CONF / group).glob("*.yaml")]
    targets = {value for config in configs for key, value in _entries(config, "") if key.endswith("._target_")}
    return frozenset(target for target in targets if target != "???")


def check_config(config: Any, key: str, group: str, source: Path) -> None:
    """Refuse a part of a config that a command read from ``source`` unless it names only classes of ``conf/<group>``.

    Raises:
        InputError: It names another class, holds an interpolation, or something that Hydra would take for an
            instruction; the line names the full key and the file.
    """
    known = classes_in_conf(group)
    for full_key, value in _entries(config, key):
        name = full_key.rpartition(".")[2]
        if name == "_target_" and value not in known:
            raise InputError(f"{source}: {full_key} is {_shown(value)}, which is no class of conf/{group}; {TRUST}")
        if name.startswith("_") and name != "_target_":
            raise InputError(f"{source}: {full_key} is no plain option; {TRUST}")
        if isinstance(value, str) and "${" in value:
            raise InputError(f"{source}: {full_key} is {_shown(value)}, and a file may not look up values; {TRUST}")


def plain_options(config: Any, key: str, target: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The options that ``source`` gives to the class of ``target``, a config of ``conf/``, whose class stays.

    Raises:
        InputError: It names another class, an option that the class does not have, or a value that is neither that of
            ``conf/`` nor a number, word or truth value.
    """
    from hydra.utils import get_class

    if not isinstance(config, Mapping):
        raise InputError(f"{source}: {key} is no mapping of options")
    name = target["_target_"]
    known = inspect.signature(get_class(name)).parameters
    for option, value in config.items():
        full_key = f"{key}.{option}"
        if option == "_target_":
            if value != name:
                raise InputError(f"{source}: {full_key} is {_shown(value)}, and that of conf/target is {name}; {TRUST}")
        elif option in target and value == target[option]:
            continue
        elif option not in known:
            raise InputError(f"{source}: {name.rpartition('.')[2]} has no option {_shown(full_key)}")
        elif not isinstance(value, (str, int, float)) or (isinstance(value, str) and "${" in value):
            raise InputError(f"{source}: {full_key} must be a number, a word or a truth value, and is {_shown(value)}")
    return {**config, "_target_": name}


def _entries(config: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every key and value in a config at any depth, each under its full key."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield f"{key}.{name}", value
            yield from _entries(value, f"{key}.{name}")
    elif isinstance(config, list):
        for at, value in enumerate(config):
            yield f"{key}.{at}", value
            yield from _entries(value, f"{key}.{at}")


def _shown(value: Any) -> str:
    """A value from a file as a message may show it: in one short line."""
    text = repr(value) if not isinstance(value, str) or not value.isprintable() else value
    return text if len(text) <= 80 else f"{text[:79]}…"
