"""A command line as a person types it, read before Hydra does: what Hydra's grammar refuses is said in plain words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from src.command.config_checks import full_key, nearest_one
from src.command.exits import CONF
from src.contracts import InputError

# Hydra's options, and how many values follow each.
OPTIONS = {
    **dict.fromkeys(("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r"), 0),
    **dict.fromkeys(("--multirun", "-m", "--shell-completion", "-sc", "--info", "-i"), 0),
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"), 1),
    **dict.fromkeys(("--config-dir", "-cd", "--experimental-rerun"), 1),
}
OWN = ("--plan", "--json")  # options of src.run, which takes them out before Hydra reads the rest
CHOICES = {"--cfg": ("job", "hydra", "all"), "-c": ("job", "hydra", "all")}
LISTS = ("target",)  # groups of which a run takes several files
ADDED = ("experiment", "search")  # groups that are chosen with a plus
PLACES = {  # what a path was meant for
    "data": "a folder of images is given by data=image_folder 'data.root=\"{}\"'",
    "model": "a file of weights is given by 'model.weights=\"{}\"'",
}


def read_command_line(arguments: Sequence[str]) -> list[str]:
    """The arguments with Hydra's options in front, where Hydra wants them.

    Raises:
        InputError: There is no such option, or a word is no ``key=value`` that Hydra can read; the line says what to
            type instead.
    """
    options, words = _separate(arguments)
    for at, text in enumerate(words):
        override = _parsed(text, words[at + 1 : at + 3])
        if not override.key_or_group:
            raise InputError(f"{text}: a key must stand in front of '='; --cfg job shows all keys")
        if override.is_force_add() and override.key_or_group in ADDED:
            raise InputError(f"{text}: one plus is enough, {text[1:]}")
        _check_group(override, text)
    for key, first, last in _repeated(words):
        if key in ADDED:
            raise InputError(f"{key} is given twice, {first} and {last}: a run takes one")
    return [*options, *words]


def overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments without Hydra's options."""
    return _separate(arguments)[1]


def remarks(arguments: Sequence[str]) -> list[str]:
    """A line for each key that is given twice with two values; Hydra takes the last."""
    repeated = _repeated([each for each in arguments if not each.startswith("-")])
    return [f"{key} is given twice, {first} and {last}: the last counts" for key, first, last in repeated]


def _repeated(overrides: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    given: dict[str, str] = {}
    for text in overrides:
        key = text.partition("=")[0].lstrip("+")
        first = given.setdefault(key, text)
        if first != text:
            yield key, first, text


def _separate(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    options: list[str] = []
    words: list[str] = []
    rest: Iterator[str] = iter(arguments)
    for word in rest:
        name, _, value = word.partition("=")
        if word == "--":
            continue
        if not word.startswith("-"):
            words.append(word)
        elif word.startswith(tuple(f"{option}=" for option, values in OPTIONS.items() if not values)):
            raise InputError(f"{word}: {name} takes no value; write {name} alone")
        elif name not in OPTIONS:
            raise InputError(_no_option(name, value or next(rest, "")))
        else:
            if OPTIONS[name] and not value:
                value = next(rest, "")
            _check_choice(name, value)
            options += [name, value] if OPTIONS[name] else [f"{name}=all" if word in ("--info", "-i") else word]
    return options, words


def _check_choice(name: str, value: str) -> None:
    if OPTIONS[name] and not value:
        raise InputError(f"{name} needs a value; --help shows what there is")
    if value not in CHOICES.get(name, (value,)):
        raise InputError(f"{name} {value}: there are {', '.join(f'{name} {choice}' for choice in CHOICES[name])}")


def _no_option(option: str, value: str) -> str:
    """``--seed 1`` is written ``seed=1`` here, and ``--experiment x`` ``+experiment=x``."""
    name = option.lstrip("-").replace("-", "_")
    near = nearest_one(option, [*OPTIONS, *OWN])
    if near is not None and not (CONF / name).is_dir():
        return f"There is no option {option}. Did you mean {near}?"
    key = f"+{name}" if name in ADDED else full_key(name)
    written = f"{key}={value if value and not value.startswith('-') else 'VALUE'}"
    return f"There is no option {option}: settings are written key=value, {written}; --help shows what there is"


def _parsed(text: str, following: Sequence[str]) -> Any:
    """Hydra's reading of an override; ``following`` are the next two words."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    parser = OverridesParser.create()
    try:
        return parser.parse_overrides([text])[0]
    except OverrideParseException as error:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(_no_value(text, following)) from error
        quoted = f'{key}="{_escaped(value)}"'
        line = f"{text}: quote the value, {shlex.quote(quoted)}"
        try:
            parser.parse_overrides([quoted])
        except OverrideParseException:
            line = f"{text}: '{key}' is no key; --cfg job shows all keys"
        if value.startswith(("[", "{")) and any(value.count(a) > value.count(b) for a, b in ("[]", "{}")):
            line = f"{text}: the list or mapping is not complete, e.g. {key}=[a,b] or '{key}={{a: 1, b: 2}}'"
        raise InputError(line) from error


def _escaped(value: str) -> str:
    """A value as it stands between Hydra's double quotes."""
    value = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    return re.sub(r'(\\*)(?="|$)', r"\1\1", value).replace('"', '\\"')


def _no_value(text: str, following: Sequence[str]) -> str:
    """What was meant by a word without ``=``: the name of a file of ``conf/``, or a key with spaces around it."""
    name = text.strip(":,")
    words = [word for word in following if word not in ("=", ":") and "=" not in word]
    if (CONF / name).is_dir() or text.endswith(":") or following[:1] == ["="]:
        plus = "+" if name in ADDED else ""
        return f"{text}: write key=value without spaces, {plus}{name}={words[0] if words else 'VALUE'}"
    files = {path.stem: path.parent.name for path in sorted(CONF.glob("*/*.yaml"), reverse=True)}
    files |= {path.stem: group for group in ADDED for path in (CONF / group).glob("*.yaml")}
    group, _, file = name.rpartition("/")
    near = file if file in files else nearest_one(name, list(files))
    if near is None:
        return f"{text}: write key=value; --help shows what there is"
    group = group or files[near]
    return f"{text}: write key=value. Did you mean {'+' if group in ADDED else ''}{group}={near}?"


def _check_group(override: Any, text: str) -> None:
    """Refuse what a group of ``conf/`` cannot be given, before Hydra merges it."""
    group = override.key_or_group
    if not group or override.package is not None or override.is_delete() or not (CONF / group).is_dir():
        return
    value = override.value()
    known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if value is None or value == "" or isinstance(value, (bool, int, float, dict)):
        raise InputError(f"{text}: {group} takes the name of a file of conf/{group}: {', '.join(known)}")
    if value == []:
        raise InputError(f"{text}: name at least one, {group}=[{known[0]}]; there are {', '.join(known)}")
    if isinstance(value, list) and group not in LISTS:
        names = ",".join(map(str, value)) or "NAME"
        chain = "; several on one network are a chain, docs/methods/README.md" if group == "method" else ""
        raise InputError(f"{text}: a run takes one {group}. Each in a run of its own: -m {group}={names}{chain}")
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        name = value.split("/")[-1].rpartition(".")[0]
        raise InputError(f"{text}: name the file without its folder and ending, {group}={name}")
    if isinstance(value, str) and group in PLACES and value.startswith(("/", "~", ".")):
        raise InputError(f"{text}: {group} takes the name of a file of conf/{group}; {PLACES[group].format(value)}")
