"""The identity of a stage: a hash of all that determines it, so that an equal stage is found and no other."""

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

FromImport = tuple[str, int, tuple[str, ...]]  # module, number of dots, names
PROJECT = __name__.partition(".")[0]
# Top-level modules whose distribution has another name.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "pytorch_lightning": "pytorch-lightning"}


def digest(text: str) -> str:
    """The hash that names things: 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(spec: Mapping[str, Any]) -> str:
    """Hash a specification to 16 hexadecimal digits; the order of keys does not matter.

    Raises:
        TypeError: ``spec`` holds a value that JSON cannot.
        ValueError: ``spec`` holds a number that is not finite.
    """
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return digest(text)


def targets_of(config: Any) -> set[str]:
    """Return every ``_target_`` in a resolved config, at any depth."""
    if isinstance(config, Mapping):
        own = {config["_target_"]} if isinstance(config.get("_target_"), str) else set()
        return own.union(*(targets_of(value) for value in config.values()))
    if isinstance(config, (list, tuple)):
        return set().union(*(targets_of(value) for value in config))
    return set()


def files_of(config: Any, key: str = "") -> dict[str, str]:
    """Return the SHA-256 of each file that a resolved config names, by the file's full key.

    A file is named by a key ``weights`` or ``file`` whose value is the path of an existing file.
    """
    if isinstance(config, Mapping):
        parts = [files_of(value, f"{key}.{name}" if key else str(name)) for name, value in config.items()]
    elif isinstance(config, (list, tuple)):
        parts = [files_of(value, f"{key}.{at}") for at, value in enumerate(config)]
    else:
        named = isinstance(config, str) and key.rpartition(".")[2] in ("weights", "file")
        path = Path(config).expanduser() if named else None
        parts = [{key: hashlib.sha256(path.read_bytes()).hexdigest()}] if path is not None and path.is_file() else []
    return {name: sha256 for part in parts for name, sha256 in part.items()}


def sources(targets: Iterable[str], alone: Iterable[str] = ()) -> dict[str, Any]:
    """Return the source code and the library versions that ``targets`` depend on.

    Follows the imports of each target's module, also those inside functions, through all modules that are not
    installed: those of this project and of the user. Their code counts, without comments, layout and docstrings; of an
    installed package its version counts.

    A package of this project whose ``__init__`` only re-exports names does not count as a whole: of
    ``from src.contracts import Epoch`` the module that defines ``Epoch`` counts, so that a new result column does not
    rename the stages of a training.

    Args:
        targets: Dotted names of modules, classes or functions.
        alone: Names of modules whose own code counts, but not their imports.

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
        waiting += [*imported, *_parent(module)]
    for module in alone:
        path = _local_file(module)
        if path is not None:
            code.setdefault(module, _read(path, module)[0])
    joined = json.dumps(code, sort_keys=True)
    versions = {name: version for name in sorted(packages) if (version := _version(name)) is not None}
    return {"code": digest(joined), "versions": versions}


def _module_of(target: str) -> str | None:
    """The longest prefix of ``target`` that is a module."""
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if _local_file(name) is not None:
            return name
    return parts[0]


def _parent(module: str) -> list[str]:
    """The package that runs before ``module``; the next one above if that package only re-exports names."""
    package = module.rpartition(".")[0]
    while package and _reexports(package) is not None:
        package = package.rpartition(".")[0]
    return [package] if package else []


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
    """Digest of a module's code and of where its names come from, and the modules that it imports."""
    text, plain, from_modules = _parsed(path, *_version_of_file(path))
    imported = list(plain)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    origins: dict[str, str] = {}
    for module_named, level, names in from_modules:
        base = _base(module_named, level, package)
        reexported = _reexports(base) or {}
        for alias in names:
            name = f"{base}.{alias}"
            if _local_file(name) is not None:
                imported.append(name)
            elif alias in reexported:
                imported.append(reexported[alias])
                origins[name] = reexported[alias]
            else:
                imported.append(base)
    found = [name for name in imported if name and name.partition(".")[0] not in sys.stdlib_module_names]
    text += "".join(f"\n{name} = {origins[name]}" for name in sorted(origins))
    return digest(text), found


def _version_of_file(path: Path) -> tuple[int, int]:
    """Changes if the file is written anew: time of modification and size."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@functools.cache
def _parsed(path: Path, modified: int, size: int) -> tuple[str, list[str], list[FromImport]]:
    """The code of a file without comments, layout and docstrings, and what it imports; parsed once for each version."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain: list[str] = []
    from_modules: list[FromImport] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            plain += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            from_modules.append((node.module or "", node.level, tuple(alias.name for alias in node.names)))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree), plain, from_modules


def _base(module: str, level: int, package: str) -> str:
    """Full name of ``module`` in ``from <module> import …`` within ``package``; ``level`` is the number of dots."""
    if not level:
        return module
    above = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*above, *([module] if module else [])])


def _reexports(package: str) -> dict[str, str] | None:
    """The modules that define the names which a package of this project re-exports.

    None for any other module, and for a package whose ``__init__`` has code of its own. Only this project's packages
    are read so, since their modules do nothing but define names when they are imported; a user's may do more.
    """
    path = _local_file(package) if package.partition(".")[0] == PROJECT else None
    if path is None or path.name != "__init__.py":
        return None
    return _reexported(path, package, *_version_of_file(path))


@functools.cache
def _reexported(path: Path, package: str, modified: int, size: int) -> dict[str, str] | None:
    names: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            if any(alias.name == "*" or alias.asname is not None for alias in node.names):
                return None
            names |= {alias.name: _base(node.module or "", node.level, package) for alias in node.names}
        elif not (_is_docstring(node) or _is_list_of_names(node)):
            return None
    return names


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_list_of_names(node: ast.stmt) -> bool:
    """Whether a statement is ``__all__ = […]``."""
    return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]


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
