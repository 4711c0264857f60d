"""The house rules that no linter knows: doors, lengths, one line for each room, plain first words."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOORS = sorted(path for path in (ROOT / "src").glob("*.py") if path.stem != "__init__")
ROOMS = sorted(path.parent for path in (ROOT / "src").glob("*/__init__.py"))
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def lines(path: Path) -> int:
    """Lines of a module without its list of names."""
    text = path.read_text()
    names = next((each for each in ast.parse(text).body if ast.unparse(each).startswith("__all__")), None)
    return text.count("\n") - (names.end_lineno - names.lineno if names and names.end_lineno else 0)


def test_a_door_is_short_and_no_room_or_module_in_the_command_has_its_name() -> None:
    assert len(DOORS) >= 10
    assert {str(door): lines(door) for door in DOORS if lines(door) > 80} == {}
    names = {door.stem for door in DOORS}
    assert not names & {room.name for room in ROOMS}
    assert not names & {path.stem for path in (ROOT / "src" / "command").glob("*.py")}


def test_every_room_says_in_one_line_what_it_is_for() -> None:
    for room in ROOMS:
        docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        assert re.fullmatch(r"[^\n]{20,}\.", docstring), room


@pytest.mark.parametrize(("files", "longest"), [(SOURCES, 400), (TESTS, 500)], ids=["src", "tests"])
def test_no_file_is_longer_than_one_can_hold(files: list[Path], longest: int) -> None:
    assert {str(path.relative_to(ROOT)): lines(path) for path in files if lines(path) > longest} == {}


def test_no_function_is_longer_than_sixty_lines() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": length
        for path in [*SOURCES, *TESTS]
        for function in functions(path)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > 60
    }
    assert long == {}


NOT_SHOWN = {"batches_on_device", "read_sensitivity"}  # they only move batches and read a file


def test_every_public_function_of_the_primitives_has_an_executed_example() -> None:
    names = [
        node.name
        for path in (ROOT / "src" / "primitives").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and ">>>" not in (ast.get_docstring(node) or "")
    ]
    assert set(names) == NOT_SHOWN


def test_examples_stand_only_where_they_are_executed() -> None:
    executed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]
    shown = [path for path in SOURCES if ">>> " in path.read_text()]
    assert len(shown) > 20
    assert [path for path in shown if not any(path.is_relative_to(ROOT / place) for place in executed)] == []


def test_the_description_of_an_argument_names_its_noun() -> None:
    """``seed: Seed of the weights``, not ``seed: Of the weights``."""
    pattern = re.compile(r"^\s+(?:[a-z_`*]+(?:, [a-z_`*]+)*: )Of ", re.MULTILINE)
    found = {str(path.relative_to(ROOT)): pattern.findall(path.read_text()) for path in SOURCES}
    assert {path: hits for path, hits in found.items() if hits} == {}


def test_the_first_sentence_of_a_docstring_names_its_subject() -> None:
    """``Count a convolution``, not ``Of a convolution``."""
    beginnings = {
        f"{path.relative_to(ROOT)}:{node.name}": docstring
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and (docstring := ast.get_docstring(node) or "").startswith("Of ")
    }
    assert beginnings == {}
