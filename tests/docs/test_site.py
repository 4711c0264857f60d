"""README and docs are true: their commands compose, their code runs, their table is that of the committed search."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from src.command.command_line import read_command_line
from src.command.composition import composed
from src.command.config_checks import check_values

ROOT = Path(__file__).parents[2]
# The cards of methods have a test of their own; what troubleshooting.md shows are mistakes.
PAGES = sorted(
    path for path in (ROOT / "docs").rglob("*.md") if path.stem != "troubleshooting" and path.parent.name != "methods"
)
CONFIGS = {"run": "config", "search": "search", "sensitivity": "sensitivity"}  # doors whose words Hydra reads
WANTED = re.compile(r"^\$ (?:\S*python3?(?: -m)? src\.|\S*python3? -m src\.|dnn-compress )(.*)$")


def module(name: str) -> ModuleType:
    """A script of ``docs/``."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def commands() -> list[str]:
    """Every command of this project in README and docs, as ``run +experiment=…``."""
    found = []
    for page in [ROOT / "README.md", *PAGES]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [match[1] for line in text.splitlines() if (match := WANTED.match(line.strip()))]
    return list(dict.fromkeys(" ".join(shlex.split(line, comments=True, posix=False)) for line in found))


def first_of_sweep(word: str) -> str:
    """``seed=0,1,2`` as ``seed=0``; a list stays as it is."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{value.split(',')[0]}" if equals and not value.startswith(("[", "'", '"', "{")) else word


def test_the_documents_show_many_commands_and_each_is_there() -> None:
    found = commands()
    assert len(found) > 40
    doors = {line.split()[0].replace("-", "_") for line in found if not line.startswith("-")}
    assert {door for door in doors if not (ROOT / "src" / f"{door}.py").is_file()} == set()


@pytest.mark.parametrize("line", [line for line in commands() if line.split()[0] in CONFIGS])
def test_what_hydra_reads_of_a_shown_command_composes(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, *words = shlex.split(line.partition(" | ")[0])
    if {"--help", "-sc", "--config-dir"} & set(words) or any("launcher" in word for word in words):
        pytest.skip("shows help or completion, or needs an extra that may not be installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for word in words:  # the reader's own checkpoint
        if word.startswith("model.weights="):
            Path(word.partition("=")[2]).touch()
    options = [word for word in words if word not in ("--plan", "--json")]
    options = read_command_line([os.path.expandvars(word) for word in options])
    overrides = [word for word in options if not word.startswith("-")]
    if "-m" in options:
        overrides = [first_of_sweep(word) for word in overrides]
    plain, _ = composed([word for word in overrides if not word.startswith("hydra.")], CONFIGS[door])
    check_values(plain)


def test_the_table_of_the_readme_is_that_of_the_committed_search() -> None:
    figures = module("figures")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert figures.readme(figures.read()) == text
    assert text.count("\n") < 150
    assert (ROOT / "docs" / "front.png").stat().st_size < 200_000


def test_the_reference_has_every_room_and_every_config_and_the_site_links_to_what_is_there() -> None:
    pages = dict(module("build").pages())
    rooms = {path.parent.name for path in (ROOT / "src").glob("*/__init__.py")}
    assert {f"reference/{room}.md" for room in rooms} <= set(pages)
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"### {path.stem}\n" in pages["reference/config.md"]
    assert "| `sparsity` | `float` | `0.8` |" in pages["reference/config.md"]
    assert "def compress(" in pages["reference/api.md"]
    site = tomllib.loads((ROOT / "zensical.toml").read_text())
    named = re.findall(r"[\w/]+\.md", json.dumps(site["project"]["nav"]))
    beside = {"index.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
    missing = [
        name for name in named if name not in pages and name not in beside and not (ROOT / "docs" / name).is_file()
    ]
    assert missing == []


def test_the_ready_action_is_a_workflow_whose_gate_composes() -> None:
    workflow = yaml.safe_load((ROOT / "docs" / "howto" / "budget.yml").read_text())
    environment = workflow["env"]
    plain, _ = composed([*environment["EXPERIMENT"].split(), *environment["LIMITS"].split()])
    assert plain["budget"]["accuracy_drop"] == 0.02
    gate = next(step["run"] for step in workflow["jobs"]["budget"]["steps"] if "src.run" in step.get("run", ""))
    assert "pipefail" in gate  # else tee would end with 0


def run_code(code: str, folder: Path) -> str:
    """Run a program in a folder of its own; return what it printed."""
    (folder / "program.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_code_of_the_python_page_runs(tmp_path: Path) -> None:
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    said = run_code("\n".join(shown), tmp_path)
    assert "prune_magnitude_quantize_int8" in said
    assert said.count("greys: sequential on greys") == 1  # the processes that time files do not run the program again


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in notebook["cells"] if cell.get("outputs")] == []
    said = run_code("\n\n".join(cells), tmp_path)
    assert said.count("baseline found again") == 2
    accuracy = re.search(r"baseline\s+onnxruntime\s.*?(\d+\.\d+) %", said)
    assert accuracy is not None
    assert float(accuracy[1]) > 90


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if not Path(sys.executable).with_name("zensical").is_file():
        pytest.skip("the extra docs is not installed")
    subprocess.run([sys.executable, str(ROOT / "docs" / "build.py")], check=True)
    program = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (ROOT / "site" / "index.html").read_text()
    assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?://[^"]*"', page) == []
