"""Naming a stage by all that determines it, so that it can be found again and never be mistaken."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

# Top-level modules whose distribution has another name.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "pytorch_lightning": "pytorch-lightning"}


def identity(spec: Mapping[str, Any]) -> str:
    """Hash a specification to 16 hexadecimal digits; key order does not matter.

    Raises:
        TypeError: ``spec`` holds something that JSON cannot.
    """
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def targets_of(config: Any) -> set[str]:
    """Every ``_target_`` in a resolved config, however deep."""
    if isinstance(config, Mapping):
        own = {config["_target_"]} if isinstance(config.get("_target_"), str) else set()
        return own.union(*(targets_of(value) for value in config.values()))
    if isinstance(config, (list, tuple)):
        return set().union(*(targets_of(value) for value in config))
    return set()


def files_of(config: Any, key: str = "") -> dict[str, str]:
    """The SHA-256 of each file that a resolved config names under a key ``weights`` or ``file``, by its full key."""
    if isinstance(config, Mapping):
        parts = [files_of(value, f"{key}.{name}" if key else str(name)) for name, value in config.items()]
    elif isinstance(config, (list, tuple)):
        parts = [files_of(value, f"{key}.{at}") for at, value in enumerate(config)]
    else:
        named = isinstance(config, str) and key.rpartition(".")[2] in ("weights", "file")
        path = Path(config).expanduser() if named else None
        parts = [{key: hashlib.sha256(path.read_bytes()).hexdigest()}] if path is not None and path.is_file() else []
    return {name: digest for part in parts for name, digest in part.items()}


def sources(targets: Iterable[str], alone: Iterable[str] = ()) -> dict[str, Any]:
    """The source and the library versions that make what ``targets`` name.

    Follows the imports of each target's module, function bodies included, through all modules that are no installed
    package: this project's and a user's. Of those the code counts, comments, layout and docstrings aside; of
    installed packages the version.

    Args:
        targets: Dotted names of modules, classes or functions.
        alone: Names of modules that count by themselves, not what they import.

    Returns:
        ``{"code": digest over all modules, "versions": {distribution: version}}``.
    """
    waiting = [module for target in targets if (module := _module_of(target)) is not None]
    code: dict[str, str] = {}
    packages: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in code or module in packages:
            continue
        path = _local_file(module)
        if path is None:
            packages.add(module.partition(".")[0])
            continue
        code[module], imported = _read(path, module)
        waiting += [*imported, module.rpartition(".")[0]] if "." in module else imported
    for module in alone:
        path = _local_file(module)
        if path is not None:
            code.setdefault(module, _read(path, module)[0])
    joined = json.dumps(code, sort_keys=True)
    versions = {name: version for name in sorted(packages) if (version := _version(name)) is not None}
    return {"code": hashlib.sha256(joined.encode()).hexdigest()[:16], "versions": versions}


def _module_of(target: str) -> str | None:
    """The longest prefix of ``target`` that is a module."""
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if _local_file(name) is not None:
            return name
    return parts[0]


@functools.cache
def _top_folder(top: str) -> Path | None:
    """The folder or file of a top-level module that is not installed; None for an installed or built-in one."""
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin and spec.origin.endswith("__init__.py"):
        path = Path(spec.origin).parent
    elif spec.origin and spec.origin.endswith(".py"):
        path = Path(spec.origin)
    elif spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations)))
    else:
        return None
    return None if {"site-packages", "dist-packages"} & set(path.parts) else path


def _local_file(module: str) -> Path | None:
    top, *rest = module.split(".")
    folder = _top_folder(top)
    if folder is None:
        return None
    if folder.suffix == ".py":
        return folder if not rest else None
    path = folder.joinpath(*rest)
    if path.with_suffix(".py").is_file() and rest:
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


def _read(path: Path, module: str) -> tuple[str, list[str]]:
    """Digest of a module's code, and the names of what it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: list[str] = []
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            imported.append(base)
            imported += [name for alias in node.names if _local_file(name := f"{base}.{alias.name}") is not None]
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    found = [name for name in imported if name and name.partition(".")[0] not in sys.stdlib_module_names]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16], found


@functools.cache
def _version(package: str) -> str | None:
    for name in (DISTRIBUTIONS.get(package, package), package.replace("_", "-")):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found = _distributions().get(package)
    return metadata.version(found[0]) if found else None


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()
