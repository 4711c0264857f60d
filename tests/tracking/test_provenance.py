"""The commit that a result names is the one of this project, or none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ASKED = "from src.tracking.provenance import *; print(git_commit(), source_digest(), *remarks(), sep='\\n')"


def git(folder: Path, *arguments: str) -> str:
    by = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *by, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, *paths: str) -> str:
    git(folder, "init")
    git(folder, "add", *paths)
    git(folder, "commit", "-m", "all")
    return git(folder, "rev-parse", "HEAD").strip()


def asked(folder: Path, **environment: str) -> list[str]:
    """The commit, the digest and the remarks that the project in ``folder`` gives."""
    command = [sys.executable, "-B", "-c", ASKED]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    said = subprocess.run(
        command, cwd=folder, env={**kept, **environment}, check=True, capture_output=True, text=True
    ).stdout
    return said.splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What was unpacked: the files that matter here, no ``.git``, inside a folder of somebody's."""
    folder = tmp_path / "thesis" / "code"
    for name in ("src/__init__.py", "src/device", "src/tracking", "conf/data"):
        source, to = PROJECT / name, folder / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, to) if source.is_dir() else shutil.copyfile(source, to)
    return folder


def test_the_commit_is_named_and_an_edit_makes_it_dirty(project: Path) -> None:
    made = commit(project, "src", "conf")
    clean = asked(project)
    assert (clean[0], len(clean)) == (made, 2)
    (project / "pipeline").mkdir()
    (project / "pipeline" / "methods.csv").write_text("written by dvc repro")
    assert asked(project) == clean
    (project / "conf" / "data" / "digits.yaml").write_text("edited: true\n")
    edited = asked(project)
    assert edited[0] == f"{made}-dirty"
    assert edited[1] != clean[1]


def test_a_new_file_makes_it_dirty_whatever_git_is_told_to_show(project: Path) -> None:
    made = commit(project, ".")
    git(project, "config", "status.showUntrackedFiles", "no")
    assert asked(project)[0] == made
    (project / "src" / "new.py").write_text("")
    assert asked(project)[0] == f"{made}-dirty"


def test_a_project_unpacked_inside_another_repository_has_no_commit(project: Path) -> None:
    (project.parent / "thesis.tex").write_text("words")
    commit(project.parent, "thesis.tex")
    recorded, digest, remark = asked(project)
    assert recorded == "None"
    assert f"the repository {project.parent} does not hold this project's source" in remark
    assert digest in remark


def test_a_repository_made_around_the_unpacked_files_without_adding_them_has_no_commit_either(project: Path) -> None:
    (project / "notes.txt").write_text("words")
    commit(project, "notes.txt")
    assert asked(project)[0] == "None"


def test_a_repository_that_a_hook_names_is_not_asked(project: Path, tmp_path: Path) -> None:
    made = commit(project, "src", "conf")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a").write_text("a")
    commit(other, "a")
    assert asked(project, GIT_DIR=str(other / ".git"))[0] == made


def test_outside_git_there_is_no_commit_and_nothing_to_say(project: Path) -> None:
    recorded, digest = asked(project, GIT_CEILING_DIRECTORIES=str(project.parent))
    assert (recorded, len(digest)) == ("None", 16)


def test_a_repository_of_another_user_is_named_with_the_remedy_of_git(project: Path) -> None:
    commit(project, "src", "conf")
    recorded, _, remark = asked(project, GIT_TEST_ASSUME_DIFFERENT_OWNER="1", GIT_CONFIG_GLOBAL=os.devnull)
    assert recorded == "None"
    assert f"git config --global --add safe.directory {project}" in remark
    assert "\n" not in remark


@pytest.mark.slow
def test_a_run_records_the_digest_and_says_once_why_there_is_no_commit(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("words")
    commit(tmp_path, "thesis.tex")
    folder = tmp_path / "code"
    for name in ("src", "conf"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "src.run", "method=baseline", "tracking=off", "training.epochs=1"]
    command += ["model.blocks=[[4],[8]]", "model.dense=8", "timing.seconds=0.1", "hydra.run.dir=out"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    recorded = json.loads((folder / "out" / "results.json").read_text())
    assert (recorded["git_commit"], said.count("No commit is recorded")) == (None, 1)
    assert recorded["source"] == asked(folder)[1]
    assert recorded["source"] in said
