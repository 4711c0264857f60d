"""What constructors of this project refuse by plain values, known before they are imported.

A range is declared once, where the constructor checks it. Here its checks are taken from the source, as its signature
is, and run with the values of a config. What needs more (an object, a tensor, another package) is left
to the constructor itself.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from src.command.signatures import tree_of

CHECKED = ("__init__", "__post_init__")
# All that a check may call; with nothing else in reach it can open no file and import nothing.
PLAIN = (
    *("abs", "all", "any", "bool", "dict", "divmod", "enumerate", "float", "getattr", "int", "isinstance", "len"),
    *("list", "max", "min", "range", "round", "set", "sorted", "str", "sum", "tuple", "type", "zip", "ValueError"),
)
KNOWN: dict[str, Any] = {
    "math": math,
    "re": re,
    "Mapping": collections.abc.Mapping,
    "Sequence": collections.abc.Sequence,
}
MISSING = "???"
Namespace = dict[str, Any]


class Unknown:
    """An object that a config describes and nobody has built: it is not None, and every other question is an error."""

    def _unknown(self, *_: object) -> Any:
        raise TypeError("nothing is known of it")

    __bool__ = __call__ = __eq__ = __hash__ = _unknown
    __class__ = property(_unknown)


def _callable(value: Any) -> bool:
    return value.__bool__() if type(value) is Unknown else callable(value)


BUILTINS = {**{name: getattr(builtins, name) for name in PLAIN}, "callable": _callable}


def refusal(target: str, config: Mapping[str, Any]) -> str | None:
    """The message with which the constructor of ``target`` refuses the plain values of a config, if they say so much.

    Args:
        target: Full name of a class, e.g. ``src.methods.prune.Prune``.
        config: Its settings; what holds a ``_target_`` of its own counts as an object of which nothing is known. A base
            class is checked with the same values: a class must not give it others under the same names.
    """
    module, _, name = target.rpartition(".")
    values = {key: _opaque(value) for key, value in config.items() if value != MISSING}
    for owner, node in _classes(module, name):
        for member in node.body:
            if isinstance(member, ast.FunctionDef) and member.name in CHECKED:
                message = _run(member, owner, _object(node, owner, values))
                if message is not None:
                    return message
    return None


def _opaque(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Unknown() if "_target_" in value else {key: _opaque(inner) for key, inner in value.items()}
    return [_opaque(inner) for inner in value] if isinstance(value, list) else value


def _classes(module: str, name: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """A class of this project and its bases, each with the module that defines it."""
    found = _definition(module, name)
    if found is not None and isinstance(found[1], ast.ClassDef):
        yield found[0], found[1]
        for base in found[1].bases:
            yield from _classes(found[0], ast.unparse(base).partition("[")[0])


def _definition(module: str, name: str) -> tuple[str, ast.stmt] | None:
    """The statement that defines ``name`` for a module of this project, and the module in which it stands."""
    tree = tree_of(module) if module.startswith("src.") else None
    for node in tree.body if tree is not None else []:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and name in _names(node.targets):
            return module, node
        if isinstance(node, ast.ImportFrom) and any((each.asname or each.name) == name for each in node.names):
            original = next(each.name for each in node.names if (each.asname or each.name) == name)
            return _definition(node.module or "", original)
    return None


def _names(targets: Sequence[ast.expr]) -> set[str]:
    """The names that an assignment gives values to."""
    return {node.id for each in targets for node in ast.walk(each) if isinstance(node, ast.Name)}


def _object(node: ast.ClassDef, module: str, values: Mapping[str, Any]) -> SimpleNamespace:
    """What ``self`` is to the checks of a class: the values, and the class's own properties."""
    properties = {}
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and [ast.unparse(each) for each in member.decorator_list] == [
            "property"
        ]:
            plain = ast.FunctionDef(**{**vars(member), "decorator_list": []})
            properties[member.name] = property(_function(plain, module))
    return type("Values", (SimpleNamespace,), properties)(**values)


def _run(function: ast.FunctionDef, module: str, values: SimpleNamespace) -> str | None:
    """Run the statements of a constructor one by one; those that need more than plain values are passed over."""
    space: Namespace = {"__builtins__": BUILTINS, **KNOWN, "self": values}
    space |= {**_defaults(function.args), **vars(values)}
    for statement in function.body:
        try:
            _execute(statement, module, space)
        except ValueError as error:
            return str(error)
        except Exception:  # it needs more than plain values; what it would have assigned is not known either
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    space.pop(node.id, None)
    return None


def _defaults(arguments: ast.arguments) -> Namespace:
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {each.arg: default.value for each, default in pairs if isinstance(default, ast.Constant)}


def _execute(statement: ast.stmt, module: str, space: Namespace) -> None:
    """Execute a statement in a namespace, into which the module's own names that it uses are brought first."""
    read = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for name in read - set(space) - set(BUILTINS) - {getattr(statement, "name", "")}:
        found = _value(module, name)
        if found is not None:
            space[name] = found[0]
    code = ast.Module([statement], [])
    exec(compile(code, "<constructor>", "exec", dont_inherit=False), space)


def _function(node: ast.FunctionDef, module: str) -> Any:
    """A function of its own source, with what it uses of its module as far as that is plain."""
    space: Namespace = {"__builtins__": BUILTINS, **KNOWN}
    _execute(node, module, space)
    return space[node.name]


@cache
def _value(module: str, name: str) -> tuple[Any] | None:
    """The constant or function that a module knows by a name, in a tuple; None if it takes more than plain values."""
    found = _definition(module, name)
    if found is None or isinstance(found[1], ast.ClassDef):
        return None
    owner, node = found
    space: Namespace = {"__builtins__": BUILTINS, **KNOWN}
    try:
        _execute(node, owner, space)
    except Exception:  # it needs more than plain values, in one of many ways
        return None
    return (space[name],) if name in space else None
