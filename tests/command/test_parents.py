"""What a command starts ends with it, however it ends."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
WAITING = "import time; from src.command.exits import run_command; run_command(lambda: print('begun', flush=True) or "
WAITING += "time.sleep(120))"
STARTED = f"""
import os
from src.study.workers import started
with started(["-c", {WAITING!r}], os.environ) as process:
    process.wait()
"""
JOBS = """
import time
from src.command.folders import owned_folders
from src.command.jobs import run_jobs
def task(job):
    print('begun', flush=True)
    time.sleep(120)
with owned_folders():
    run_jobs("config", task)
"""


def run(folder: Path, *command: str, **environment: str) -> subprocess.Popen[str]:
    """Begin a command in ``folder`` with this project's modules."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def tree_ends(process: subprocess.Popen[str], at_work: Callable[[], bool]) -> None:
    """Kill ``process`` as soon as its children are at work; they must end, too."""
    deadline = time.monotonic() + 120
    while not at_work():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=15)
    for child in alive:
        child.kill()
    assert alive == []


def begun(process: subprocess.Popen[str], times: int = 1) -> Callable[[], bool]:
    """Whether the children have said that they are at work; waits for it."""
    assert process.stdout is not None
    stdout = process.stdout
    return lambda: [stdout.readline() for _ in range(times)] == ["begun\n"] * times


def test_a_command_that_another_started_ends_when_that_is_killed(tmp_path: Path) -> None:
    process = run(tmp_path, sys.executable, "-c", STARTED)
    tree_ends(process, begun(process))


@pytest.mark.parametrize("shell", ["{}", "{}; true"], ids=["alone", "between others"])
def test_a_stage_ends_when_dvc_is_killed_even_with_a_shell_between(tmp_path: Path, shell: str) -> None:
    line = shell.format(shlex.join([sys.executable, "-c", WAITING]))
    dvc = f"import subprocess; subprocess.run(['/bin/sh', '-c', {line!r}])"
    process = run(tmp_path, sys.executable, "-c", dvc, DVC_STAGE="baseline")
    tree_ends(process, begun(process))


def test_a_survey_s_members_in_other_processes_end_when_it_is_killed(tmp_path: Path) -> None:
    joblib = ["-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = run(tmp_path, sys.executable, "-c", JOBS, *joblib, HYDRA_FULL_ERROR="1")
    tree_ends(process, begun(process, 2))


@pytest.mark.slow
def test_a_search_s_workers_end_when_it_is_killed_and_the_same_command_goes_on(tmp_path: Path) -> None:
    small = ["training.epochs=40", "training.batch_size=128", "model.blocks=[[8],[16]]", "model.dense=32"]
    small += ["budget.accuracy_drop=0.5", "search.trials=2", "search.finalists=1", "search.lengths=[1.0]"]
    small += ["timing.seconds=0.02", "timing.rounds=2", "tracking=off", "workers=2"]
    line = [sys.executable, "-m", "src.search", "+search=digits_budget", *small]
    process = run(tmp_path, *line)

    def at_work() -> bool:
        return len(list((tmp_path / "artifacts" / ".locks" / "search").glob("*-[0-9]"))) > 0

    tree_ends(process, at_work)
    again = run(tmp_path, *line)
    printed, _ = again.communicate(timeout=240)
    assert again.returncode == 0, printed
    assert "Chosen: trial" in printed


@pytest.mark.slow
def test_a_stage_ends_when_dvc_itself_is_killed(tmp_path: Path) -> None:
    from dvc.repo import Repo

    Repo.init(str(tmp_path), no_scm=True).close()
    (tmp_path / "stage.py").write_text(WAITING.replace("print('begun', flush=True)", "open('begun', 'w').close()"))
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  one:\n    cmd: {sys.executable} stage.py\n    outs: [out]\n")
    process = run(tmp_path, sys.executable, "-m", "dvc", "repro")
    tree_ends(process, (tmp_path / "begun").exists)
