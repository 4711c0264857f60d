"""What is installed is declared, used, pinned by a hash, and named with its licence in ``docs/dependencies.md``."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from tests.licences import LOCK, by_licence, licence, locked

ROOT = Path(__file__).parent.parent
OWN = {"src", "benchmarks", "tests"}
ON_THE_BOARD = {"device", "tensorflow", "tensorrt", "tflite_runtime"}  # imported there alone, if they are there
PEERS = {"nncodec"}  # imported by benchmarks in virtual environments of their own
IMPORTERS = {"import_module", "importorskip", "find_spec"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {plain(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that the code imports, at its head or when it needs it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in IMPORTERS:
            yield from (str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))


@cache
def imported() -> dict[str, set[str]]:
    """The packages that each imported module may come from; more than one for a module that packages share."""
    trees = [ast.parse(path.read_text()) for folder in OWN for path in (ROOT / folder).rglob("*.py")]
    modules = {name.partition(".")[0] for tree in trees for name in imports(tree)}
    for config in (ROOT / "conf").rglob("*.yaml"):
        modules |= {name.partition(".")[0] for name in re.findall(r"_target_: ([\w.]+)", config.read_text())}
    found = metadata.packages_distributions()
    foreign = modules - set(sys.stdlib_module_names) - OWN - ON_THE_BOARD - PEERS
    return {module: {plain(name) for name in found.get(module, [module])} for module in foreign}


def test_every_package_that_the_code_imports_is_declared() -> None:
    assert {module: names for module, names in imported().items() if not names & declared()} == {}


def tables() -> list[dict[str, str]]:
    """Package and licence of each table of the document's first two."""
    parts = (ROOT / "docs" / "dependencies.md").read_text().split("\n## ")[1:3]
    rows = [re.findall(r"^\| ([\w.-]+) \| (.+) \| (.+) \|$", part, re.MULTILINE) for part in parts]
    assert all(why.strip() for part in rows for _, why, _ in part)
    return [{name: stated for name, _, stated in part if name != "package"} for part in rows]


def test_every_declared_package_is_used_or_says_why_it_is_there() -> None:
    used, beside = tables()
    through_code = {name for names in imported().values() for name in names & declared()}
    assert set(used) == through_code
    assert set(beside) == declared() - through_code


def test_every_declared_package_names_its_licence() -> None:
    for name, stated in {**tables()[0], **tables()[1]}.items():
        try:
            assert (name, stated) == (name, licence(name))
        except metadata.PackageNotFoundError:  # an extra that this system does not have
            continue


def test_every_package_of_the_lock_is_listed_under_its_licence() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text().rpartition("\n## ")[2]
    items = re.findall(r"^- \*\*(.+?)\*\*: ((?:.+\n(?:  .+\n)*))", text, re.MULTILINE)
    listed = {name: set(re.split(r",\s+", packages.strip())) for name, packages in items}
    missing = {name: found - listed.get(name, set()) for name, found in by_licence().items()}
    assert {name: packages for name, packages in missing.items() if packages} == {}, "python -m tests.licences"
    assert set().union(*listed.values()) <= {name for name, _ in locked()}


def test_the_lock_holds_a_hash_of_every_package_and_no_address() -> None:
    entries = locked()
    assert len(entries) > 250
    assert [name for name, rest in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", rest)] == []
    assert declared() <= {name for name, _ in entries}
    assert "://" not in LOCK.read_text()


def test_make_installs_nothing_whose_hash_it_does_not_check() -> None:
    recipe = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip install .*?(?=\|\||\n|#)", recipe)
    assert len(installs) == 4
    assert [
        line for line in installs if "--require-hashes" not in line and "--no-index" not in line
    ] == []  # the project itself
    assert [line for line in installs if "--no-build-isolation" not in line and "first.txt" not in line] == []


def test_what_make_installs_first_are_whole_entries_of_the_lock(tmp_path: Path) -> None:
    (command,) = re.findall(r"sed -n .*(?= > )", (ROOT / "Makefile").read_text())
    command = command.replace("$$", "$")
    found = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = [f"{name}=={rest}\n" for name, rest in locked() if name in ("setuptools", "uv")]
    assert found == "".join(wanted)


@pytest.mark.slow
def test_a_package_whose_file_is_another_than_the_locked_one_is_not_installed(tmp_path: Path) -> None:
    """The lock with the hashes of another package: pip refuses what the index gives."""
    entries = dict(locked())
    pinned, hashes = entries["idna"].split(" ", 1)[0], entries["zipp"].partition("--hash")[2]
    altered = tmp_path / "altered.txt"
    altered.write_text(f"idna=={pinned} --hash{hashes}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--require-hashes",
        "--no-deps",
        "--retries=0",
        "-r",
        str(altered),
    ]
    said = subprocess.run([*command, "--target", str(tmp_path / "to")], capture_output=True, text=True, check=False)
    if "No matching distribution" in said.stderr:
        pytest.skip("no package index can be reached")
    assert said.returncode != 0
    assert "DO NOT MATCH THE HASHES" in said.stderr
    assert not (tmp_path / "to" / "idna").exists()
