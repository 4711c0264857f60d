"""The options of a command without Hydra: a mistyped one gets one line, with what was meant."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from src.command.config_checks import nearest_one
from src.command.exits import WRONG_INPUT
from src.contracts import InputError


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose mistakes are one line, without the usage in front; options are written out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The arguments; exits with 2 and one line if they are wrong."""
        for word in sys.argv[1:] if args is None else args:
            name = word.partition("=")[0]
            if word.startswith("--") and len(word) > 2 and name not in self._known():
                self.error(self._no_option(name))
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        print(f"{_in_words(message)}; {self.prog.replace('.py', '')} --help shows how", file=sys.stderr)
        raise SystemExit(WRONG_INPUT)

    def _known(self) -> list[str]:
        parsers = [self]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
        return [option for parser in parsers for option in parser._option_string_actions]

    def _no_option(self, option: str) -> str:
        near = nearest_one(option, self._known())
        options = ", ".join(each for each in self._known() if each.startswith("--") and each != "--help")
        return f"there is no option {option}" + (
            f", did you mean {near}?" if near else f"; there are {options or 'none'}"
        )


def taken(option: str) -> bool:
    """Whether the command line has ``option``, which is taken out of it; Hydra reads the rest."""
    has = option in sys.argv[1:]
    sys.argv[1:] = [word for word in sys.argv[1:] if word != option]
    return has


def count(text: str) -> int:
    """The type of an option that takes a whole number from 1."""
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, and is {text}")
    return int(text)


def check_files(files: Sequence[Path]) -> None:
    """Refuse files that are not there before a library is imported.

    Raises:
        InputError: A file is missing, or is a folder.
    """
    for file in files:
        if file.is_dir():
            raise InputError(f"{file} is a folder, and a file is needed")
        if not file.is_file():
            raise InputError(f"There is no file {file}")


def _in_words(message: str) -> str:
    """What argparse says, as a sentence that names what was typed."""
    choice = re.match(r"argument (.*?): invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
    if choice:
        known = re.findall(r"[\w-]+", choice.group(3))
        near = nearest_one(choice.group(2), known)
        meant = f" Did you mean {near}?" if near else ""
        return f"There is no {choice.group(1)} '{choice.group(2)}'.{meant} There are {', '.join(known)}"
    kind = re.match(r"argument (.*?): invalid (\w+) value: '(.*)'", message, re.DOTALL)
    if kind:
        words = {"int": "a whole number", "float": "a number", "Path": "a path"}
        return f"{kind.group(1)} must be {words.get(kind.group(2), kind.group(2))}, and is '{kind.group(3)}'"
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing:
        return f"{missing.group(1)} must be given"
    extra = re.match(r"unrecognized arguments: (.*)", message)
    if extra:
        return f"this command takes no '{extra.group(1)}'"
    return re.sub(r"^(\S+): must", r"\1 must", message.removeprefix("argument "))
