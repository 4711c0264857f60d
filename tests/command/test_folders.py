"""A folder of results has one living owner; a name to the second is never shared; only what a record lists goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from src.command.folders import made_unused
from src.files.owner import owning
from tests.commands import Commands
from tests.listing import listing
from tests.plans import TINY

ROOT = Path(__file__).parents[2]
SMALL = [*TINY, "model.blocks=[[8]]", "model.dense=16", "timing.seconds=0.02", "timing.rounds=2"]
YEAR = "${now:%Y}"  # all commands of a test are begun in the same year, as others are in the same second
# A command without an experiment: it writes into its folder what it is, and stays until all have begun.
JOB = """
import sys, time
from pathlib import Path
from src.command.jobs import run_job
def task(job):
    time.sleep(0.2)
    (job.folder / "results.json").write_text(str(job.resolved["seed"]))
sys.exit(run_job("config", task))
"""


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Begin a command in a process of its own, in ``folder``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HYDRA_FULL_ERROR": "0"}
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
    )


def end(*processes: subprocess.Popen[str]) -> list[str]:
    """What commands print; each must end well."""
    printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), printed
    return printed


def rows_of(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())["rows"]


def test_a_name_that_is_taken_gets_the_next_number(tmp_path: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda _: made_unused(tmp_path / "outputs" / "12-00-00"), range(40)))
    assert {path.name for path in made} == {"12-00-00", *(f"12-00-00_{number}" for number in range(2, 41))}


@pytest.mark.slow
def test_two_commands_of_one_second_have_a_folder_each(tmp_path: Path) -> None:
    common = ["-m", "src.run", *SMALL, "tracking=off", "method=baseline", f"hydra.run.dir=its/{YEAR}"]
    pair = [begin(tmp_path, *common, f"seed={seed}") for seed in (1, 2)]
    printed = end(*pair)
    folders = sorted((tmp_path / "its").iterdir())
    assert [len(folder.name.split("_")) for folder in folders] == [1, 2]
    assert sorted(rows_of(folder)[0]["seed"] for folder in folders) == [1, 2]
    for seed, said in zip((1, 2), printed, strict=True):
        (folder,) = [path for path in folders if rows_of(path)[0]["seed"] == seed]
        assert f"Written: its/{folder.name}" in said.replace("\n", " ").replace("    ", " ") + " "
        assert f"seed: {seed}" in (folder / "config.yaml").read_text()


@pytest.mark.slow
def test_twenty_pairs_of_commands_begun_at_once_all_work(tmp_path: Path) -> None:
    for pairs in range(0, 20, 4):
        seeds = range(2 * pairs, 2 * pairs + 8)
        end(*(begin(tmp_path, "-c", JOB, f"hydra.run.dir=outputs/{YEAR}", f"seed={seed}") for seed in seeds))
    found = sorted(int((folder / "results.json").read_text()) for folder in (tmp_path / "outputs").iterdir())
    assert found == list(range(40))


@pytest.mark.slow
def test_two_surveys_of_one_second_have_a_folder_each(commands: Commands) -> None:
    commands.patch.chdir(commands.folder)
    named = f"hydra.sweep.dir='{commands.folder}/it\\'s/{YEAR}'"
    for _ in range(2):
        said = commands.call("run", "-m", *SMALL, "tracking=off", "method=baseline", "seed=0,1", named)
        assert said.code == 0, said.err
    first, second = sorted((commands.folder / "it's").iterdir())
    assert second.name == f"{first.name}_2"
    for folder in (first, second):
        assert json.loads((folder / "survey.json").read_text())["members"] == ["0_baseline", "1_baseline"]
        assert [rows_of(folder / f"{seed}_baseline")[0]["seed"] for seed in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("run", ["method=baseline", "hydra.run.dir=OUT"]),
        ("run", ["-m", "method=baseline", "seed=0,1", "hydra.sweep.dir=OUT"]),
        ("run", ["method=prune_magnitude", "method.sparsity=2", "hydra.run.dir=OUT"]),
        ("sensitivity", ["hydra.run.dir=OUT"]),
        ("search", ["+search=digits_budget", "hydra.run.dir=OUT"]),
        ("search", ["-m", "+search=digits_budget", "worker=0,1", "hydra.sweep.dir=OUT"]),
    ],
)
def test_a_command_beside_a_living_owner_is_refused_and_touches_nothing(
    commands: Commands, command: str, arguments: list[str]
) -> None:
    out = commands.folder / "out"
    (out / "0_baseline").mkdir(parents=True)
    for name in ("results.json", "config.yaml", "run.log", "0_baseline/results.json", "survey.json"):
        (out / name).write_text(name)
    with owning(out):
        before = listing(out)
        said = commands.call(command, *(each.replace("OUT", str(out)) for each in arguments), "tracking=off")
        assert said.code == 2, said
        assert said.err == f"{out} belongs to another command that is still at work\n"
        assert listing(out) == before


def test_the_same_search_is_refused_while_it_is_at_work(commands: Commands) -> None:
    commands.patch.chdir(commands.folder)
    folder = Path("outputs/search/digits_budget")
    folder.mkdir(parents=True)
    with owning(folder):
        said = commands.call("search", "+search=digits_budget", "tracking=off")
    assert said.code == 2
    assert said.err == f"{folder.absolute()} belongs to another command that is still at work\n"


def test_a_member_whose_folder_has_a_living_owner_fails_and_touches_nothing(commands: Commands) -> None:
    out = commands.folder / "out"
    (out / "1_baseline").mkdir(parents=True)
    (out / "1_baseline" / "results.json").write_text("theirs")
    where = [f"hydra.sweep.dir={out}", f"artifacts={commands.artifacts}", "tracking=off"]
    with owning(out / "1_baseline"):
        theirs = {name: seen for name, seen in listing(out / "1_baseline").items() if name not in (".", "run.log")}
        said = commands.call("run", "-m", *SMALL, "method=baseline", "seed=0,1", *where)
        assert said.code == 1, said
        assert f"[2/2] failed: {out}/1_baseline belongs to another command" in said.err
        assert "1 of 2 members left no results." in said.out
        now = listing(out / "1_baseline")
        assert {name: now[name] for name in theirs} == theirs
    assert json.loads((out / "survey.json").read_text())["members"] == ["0_baseline"]


@pytest.mark.slow
def test_a_survey_in_the_folder_of_a_larger_one_has_the_rows_of_its_own_members(commands: Commands) -> None:
    where = [f"hydra.sweep.dir={commands.folder}/out", f"artifacts={commands.artifacts}", "tracking=off"]
    for seeds in ("0,1,2", "0,1"):
        said = commands.call("run", "-m", *SMALL, "method=baseline", f"seed={seeds}", *where)
        assert said.code == 0, said.err
    assert "baseline x2" in said.out
    assert "survey.json, 2 runs" in said.out
    survey = json.loads((commands.folder / "out" / "survey.json").read_text())
    assert survey["members"] == ["0_baseline", "1_baseline"]
    assert [row["seed"] for row in survey["rows"]] == [0, 1]


def test_a_used_folder_keeps_no_file_of_the_earlier_method_and_every_other_file(commands: Commands) -> None:
    out = commands.folder / "out"
    where = [f"hydra.run.dir={out}", f"artifacts={commands.artifacts}", "tracking=off"]
    targets = "target=[onnxruntime,openvino]"
    assert commands.call("run", *SMALL, "method=cluster", targets, *where).code == 0
    (out / "notes.txt").write_text("mine")
    earlier = {name: seen for name, seen in listing(out).items() if name not in (".", "run.log")}
    assert {"cluster.openvino.xml", "cluster.openvino.bin", "cluster.onnxruntime.onnx"} < set(earlier)

    refused = commands.call("run", *SMALL, "method=prune_magnitude", "method.sparsity=2", *where)
    assert refused.code == 2
    assert {name: listing(out)[name] for name in earlier} == earlier  # its config.yaml, too

    said = commands.call("run", *SMALL, "method=prune_magnitude", *where)
    assert said.code == 0, said.err
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "baseline.onnxruntime.onnx", "prune_magnitude.onnxruntime.onnx", "notes.txt",
        "results.json", "metrics.json", "config.yaml", "run.log",
    }  # fmt: skip
    assert "src.methods.prune" in (out / "config.yaml").read_text()
    assert [row["variant"] for row in rows_of(out)] == ["baseline", "prune_magnitude"]


def test_a_refused_command_removes_only_the_folder_that_it_made(commands: Commands) -> None:
    wrong = ["method=prune_magnitude", "method.sparsity=2", "tracking=off"]
    kept, new = commands.folder / "kept", commands.folder / "new"
    kept.mkdir()
    for folder in (kept, new):
        assert commands.call("run", *wrong, f"hydra.run.dir={folder}").code == 2
    assert (kept.exists(), new.exists()) == (True, False)
