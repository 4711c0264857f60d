"""What a composed config may hold, checked before torch is imported: keys that are read, values of their kind."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from src.command.constructor_checks import refusal
from src.command.exits import CONF, explain_constructor, nearest
from src.command.signatures import Signature, signature_of
from src.contracts import InputError
from src.contracts.training import check_recipe

# Keys of ``training`` that say where it is computed; they are no part of the recipe.
COMPUTE = ("device", "precision", "threads", "devices", "strategy")
# Keys of a group that its `_target_` does not get: the command takes them out.
BESIDE = {
    "model": ("weights", "weights_key", "replace_head", "output"),
    "training": (*COMPUTE, "auxiliary_weight"),
}
# Parts of the config without a `_target_`, and the class that gets them.
READERS = {"timing": "src.metrics.timing.Clock", "sensitivity": "src.experiment.sensitivity.Sweep"}
MAPPINGS = ("data", "model", "method", "training", "target", "board", "tracking", "budget", "timing", "search", "space")
RECIPE = "src.training.recipe.Recipe"
MISSING = "???"
SEEDS = 2**32  # as many as numpy's and scikit-learn's generators have
WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word", "None": "null"}
KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
    "Sequence": (list,),
    "list": (list,),
    "tuple": (list,),
    "Mapping": (dict,),
    "dict": (dict,),
}


def check_keys(plain: Mapping[str, Any], raw: Any, config_name: str, swept: Sequence[str] = ()) -> None:
    """Refuse keys at the top and in the groups that nothing reads, and name what was meant.

    Args:
        plain: The resolved config.
        raw: The same before its interpolations are resolved: what one of them names is read.
        config_name: The file of ``conf/`` that it was composed from.
        swept: Parts of the config that a sweep will replace; they are not checked.

    Raises:
        InputError: Nothing reads a key, or a part of the config is missing.
    """
    known = _known_keys(config_name)
    used = set(re.findall(r"\$\{(?:\w+:)?\s*(\w+)", str(raw)))
    unread = [name for name in plain if name not in known and name not in used]
    method = plain.get("method")
    if isinstance(method, dict) and method.get("name") != "baseline":  # a search's file, as its "Made again by" has it
        unread = [name for name in unread if name not in ("search", "space")]
    if unread:
        name = "search" if "search" in unread else unread[0]  # a file of conf/search brings its space along
        raise InputError(_not_read(name, plain[name], plain, known))
    for name in sorted(known - set(plain)):
        raise InputError(f"{name} is missing: the command needs it (~{name} or a file of yours has removed it)")
    for name in sorted(known - set(swept)):
        _check_part(name, plain[name], config_name)


def check_values(plain: Mapping[str, Any], swept: Sequence[str] = ()) -> None:
    """Check every value of a resolved config of which the kind or range is known without torch.

    Raises:
        InputError: A value is of the wrong kind or out of range; the full key is named.
    """
    _check_top(plain)
    for name in plain:
        if name in MAPPINGS and name not in swept and not isinstance(plain[name], dict):
            raise InputError(f"{name} must hold settings by their keys, and is {plain[name]!r}; leave out {name}=…")
    for name in sorted(plain, key=lambda part: part != "training"):  # the first, since others calculate with it
        if name not in swept:
            check_types(plain[name], name)
    if "budget" not in swept:
        _check_budget(plain["budget"])
    if "training" not in swept:
        _check_compute(plain["training"])
    _check_places(plain)


def check_types(config: Any, key: str) -> None:
    """Compare names and plain values with what the constructors of this project say that they take.

    Raises:
        InputError: A constructor takes no such name, a number, word or truth value stands in place of another kind, or
            the constructor refuses the values.
    """
    if isinstance(config, list):
        for at, value in enumerate(config):
            check_types(value, f"{key}.{at}")
    if not isinstance(config, dict):
        return
    target = config.get("_target_", READERS.get(key))
    signature = signature_of(target) if isinstance(target, str) else None
    if signature is not None:
        _check_names(config, key, signature)
        for name, hint in signature.hints.items():
            unset = config.get(name) is None and name in BESIDE.get(key, ())
            if name in config and config[name] != MISSING and not unset:
                _check_kind(config[name], hint, f"{key}.{name}")
    if target == RECIPE:
        _check_recipe(config, key)
    for name, value in config.items():
        check_types(value, f"{key}.{name}")
    message = refusal(target, config) if isinstance(target, str) else None
    if message is not None:
        raise InputError(explain_constructor(message, key))


def _check_names(config: Mapping[str, Any], key: str, signature: Signature) -> None:
    known = [*signature.hints, *BESIDE.get(key, ())]
    for name in config:
        if not signature.any_name and name not in known and not str(name).startswith("_"):
            raise InputError(f"Nothing reads '{key}.{name}'.{nearest(str(name), known)}")


def _check_kind(value: Any, hint: str, key: str) -> None:
    kinds = [part.partition("[")[0] for part in _alternatives(hint)]
    if any(kind not in KINDS for kind in kinds):
        return
    fits = any(isinstance(value, KINDS[kind]) for kind in kinds)
    if not fits or (isinstance(value, bool) and "bool" not in kinds):
        others = {"Mapping": "values by their keys", "dict": "values by their keys"}
        words = [WORDS.get(kind) or others.get(kind, "a list, […]") for kind in kinds]
        raise InputError(f"{key} must be {' or '.join(words)}, and is {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{key} must be a finite number, and is {value}")


def _alternatives(hint: str) -> list[str]:
    """The parts of ``int | Mapping[str, int] | None`` that stand outside of brackets."""
    return re.findall(r"(?:[^|\[\]]|\[[^\]]*\]+)+", hint.replace(" ", "")) if hint else ["Any"]


def _check_recipe(config: Mapping[str, Any], key: str) -> None:
    numbers = {name: config[name] for name in ("epochs", "batch_size", "keep") if config.get(name) != MISSING}
    optimizer = config.get("optimizer")
    rate = optimizer.get("lr") if isinstance(optimizer, dict) else None
    try:
        check_recipe(**{name: value for name, value in numbers.items() if value is not None})
    except ValueError as error:
        raise InputError(f"{key}.{error}") from error
    for name in ("optimizer", "rate", "loss"):
        if name in config and not isinstance(config[name], dict) and config[name] != MISSING:
            raise InputError(f"{key}.{name} must hold a _target_ and its settings, and is {config[name]!r}")
    if rate is None or rate == MISSING:
        return
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        raise InputError(f"{key}.optimizer.lr must be a number, and is {rate!r}")
    if not 0 < rate < math.inf:
        raise InputError(f"{key}.optimizer.lr must be a finite number above 0, and is {rate}: nothing would be learned")


def _check_top(plain: Mapping[str, Any]) -> None:
    seed = plain.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise InputError(f"seed must be a whole number from 0 to {SEEDS - 1}, and is {seed!r}")
    for name in ("refresh", "verbose"):
        if not isinstance(plain.get(name, False), bool):
            raise InputError(f"{name} must be true or false, and is {plain[name]!r}")


def _check_budget(config: Any) -> None:
    from src.experiment.budget import LIMITED, Budget

    for name in config:
        if name not in LIMITED:
            raise InputError(f"Nothing reads 'budget.{name}'.{nearest(str(name), list(LIMITED))}")
    try:
        Budget(**config)
    except (TypeError, ValueError) as error:
        raise InputError(explain_constructor(str(error), "budget")) from error


def _check_compute(config: Mapping[str, Any]) -> None:
    from src.training.recipe import Compute

    if {"device", "precision", "threads"} <= set(config):
        try:
            more = {key: config[key] for key in ("devices", "strategy") if key in config}
            Compute.check(config["device"], config["precision"], config["threads"], **more)
        except ValueError as error:
            raise InputError(f"training.{error}") from error


def _check_places(plain: Mapping[str, Any]) -> None:
    """Folders that are files, a file that is not there, a word for an object."""
    for key, folder in (("artifacts", plain.get("artifacts", "artifacts")), ("data.root", plain["data"].get("root"))):
        if folder is None and key == "data.root":
            continue
        if not isinstance(folder, str) or not folder.strip():
            raise InputError(f"{key} must name a folder, and is {folder!r}")
        if Path(folder).expanduser().is_file():
            raise InputError(f"{key} must name a folder, and {folder} is a file")
    change = plain["data"].get("augmentation")
    if change is not None and not isinstance(change, dict):
        raise InputError(f"data.augmentation must hold a _target_ and its settings, or be null, and is {change!r}")
    weights = plain["model"].get("weights")
    if weights and weights != MISSING and (not isinstance(weights, str) or not Path(weights).expanduser().is_file()):
        raise InputError(f"model.weights: there is no file {weights}")


def _check_part(name: str, value: Any, config_name: str) -> None:
    """The keys of a part whose reader no ``_target_`` names."""
    if name == "search" and isinstance(value, dict):
        known = _yaml(config_name).get("search", {})
        for key in value:
            if key not in known and key != "sampler":
                raise InputError(f"Nothing reads 'search.{key}'.{nearest(key, [*known, 'sampler'])}")
    if name == "target" and isinstance(value, dict):
        for key, target in value.items():
            if not isinstance(target, dict) or "_target_" not in target:
                options = [f"target.{other}" for other in value if other != key]
                raise InputError(f"Nothing reads 'target.{key}'.{nearest(f'target.{key}', options)}")


def _not_read(name: str, value: Any, plain: Mapping[str, Any], known: set[str]) -> str:
    """The line for a key at the top that nothing reads: the group, the key further down, or the file that was meant."""
    line = f"Nothing reads '{name}'."
    if name in ("search", "space", "sampler", "workers"):
        return f"{line} It is a setting of python -m src.search"
    if name == "sensitivity":
        return f"{line} It is a setting of python -m src.sensitivity"
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    if isinstance(value, str) and (near := nearest_one(name, ["experiment", "search"])):
        return f"{line} Did you mean +{near}={value}?"
    if name in groups:
        return (
            f"{line} A file of conf/{name} is given to a key: +{name}@KEY={value if isinstance(value, str) else 'NAME'}"
        )
    below = [key for key in _full_keys(plain, "") if key.rpartition(".")[2] == name and key != name]
    if below:
        return f"{line} Did you mean {' or '.join(below[:3])}?"
    files = [path.stem for path in sorted((CONF / "method").glob("*.yaml")) if name in _yaml(f"method/{path.stem}")]
    if files:
        return f"{line} Did you mean method.{name}, with method={', '.join(files[:3])}{', …' * (len(files) > 3)}?"
    return f"{line}{nearest(name, sorted(known))}"


def nearest_one(name: str, options: Sequence[str]) -> str | None:
    """The option that ``name`` is a misspelling of."""
    return next(iter(difflib.get_close_matches(name, options, 1, 0.75)), None)


def full_key(name: str) -> str:
    """The key of ``conf/`` whose last part is ``name``, the shortest first; ``name`` itself if there is none."""
    places = {"config": "", "search": "", "sensitivity": "", "training/default": "training.", "data/digits": "data."}
    keys = [key for file, above in places.items() for key in _full_keys(_yaml(file), above)]
    found = [key for key in keys if key.rpartition(".")[2] == name and not key.startswith("hydra.")]
    return name if (CONF / name).is_dir() else min(found, key=len, default=name)


def _full_keys(config: Any, above: str) -> Iterator[str]:
    for name, value in config.items() if isinstance(config, dict) else ():
        yield f"{above}{name}"
        yield from _full_keys(value, f"{above}{name}.")


@cache
def _yaml(name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    return content or {}


@cache
def _known_keys(config_name: str) -> set[str]:
    """The keys at the top of a file of ``conf/`` with its defaults: its own keys and its groups'."""
    content = _yaml(config_name)
    known = set(content) - {"defaults", "hydra"}
    for entry in content.get("defaults", []):
        if isinstance(entry, str):
            known |= set() if entry == "_self_" else _known_keys(entry)
        elif not next(iter(entry)).startswith("override "):
            group = next(iter(entry))
            known.add(group.partition("@")[2].partition(".")[0] or group)
    return known
