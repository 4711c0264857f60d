"""What the constructors of this project take, read from their source: nothing is imported, torch least of all."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
EMPTY_BASES = ("ABC", "Protocol", "Generic")  # they take no parameters


@dataclass(frozen=True)
class Signature:
    """The parameters of a class or function.

    Attributes:
        hints: The annotation of each parameter as it stands in the source; empty if it has none.
        any_name: Whether it takes parameters of any name (``**settings``).
    """

    hints: dict[str, str]
    any_name: bool


@cache
def signature_of(target: str) -> Signature | None:
    """The signature of what a ``_target_`` names; None if it is not of this project or cannot be read off its source.

    Args:
        target: Full name of a class or function, e.g. ``src.methods.prune.Prune``.
    """
    module, _, name = target.rpartition(".")
    return _find(module, name) if module.startswith("src.") and name else None


@cache
def tree_of(module: str) -> ast.Module | None:
    """The parsed source of a module of this project; None if there is none."""
    path = ROOT.joinpath(*module.split("."))
    files = [path.with_suffix(".py"), path / "__init__.py"]
    file = next((file for file in files if file.is_file()), None)
    return ast.parse(file.read_text(encoding="utf-8")) if file is not None else None


def _find(module: str, name: str) -> Signature | None:
    """The signature of ``name`` as ``module`` knows it: defined there, or imported from another module of ``src``."""
    tree = tree_of(module)
    for node in tree.body if tree is not None else []:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _of_function(node, skip=0)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(node, module)
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("src."):
            for each in node.names:
                if (each.asname or each.name) == name:
                    return _find(node.module or "", each.name)
    return None


def _of_function(node: ast.FunctionDef, skip: int) -> Signature:
    given = [*node.args.posonlyargs, *node.args.args][skip:] + node.args.kwonlyargs
    hints = {each.arg: ast.unparse(each.annotation) if each.annotation else "" for each in given}
    return Signature(hints, node.args.kwarg is not None)


def _of_class(node: ast.ClassDef, module: str) -> Signature | None:
    """That of ``__init__`` and of the bases to which it hands the rest, or of a dataclass's fields, or of a base."""
    bases = [_of_base(base, module) for base in node.bases]
    inherited = {name: hint for base in bases if base is not None for name, hint in base.hints.items()}
    any_name = any(base is None or base.any_name for base in bases)
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            own = _of_function(member, skip=1)
            if not (own.any_name and f"super().__init__(**{member.args.kwarg.arg})" in ast.unparse(member)):  # type: ignore[union-attr]
                return own
            return Signature({**inherited, **own.hints}, any_name)
    if any("dataclass" in ast.unparse(each) for each in node.decorator_list):
        return Signature({**inherited, **_fields(node.body)}, any_name)
    return bases[0] if len(bases) == 1 else Signature(inherited, any_name)


def _of_base(base: ast.expr, module: str) -> Signature | None:
    name = ast.unparse(base).partition("[")[0]
    return Signature({}, any_name=False) if name in EMPTY_BASES else _find(module, name)


def _fields(body: Sequence[ast.stmt]) -> dict[str, str]:
    return {
        member.target.id: ast.unparse(member.annotation)
        for member in body
        if isinstance(member, ast.AnnAssign)
        and isinstance(member.target, ast.Name)
        and not ast.unparse(member.annotation).startswith("ClassVar")
        and "init=False" not in ast.unparse(member)
    }
