"""Looking before and after: ``--plan`` says what a run would do, ``--json`` hands its rows to another program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Commands

FAST = ["training.epochs=1", "training.batch_size=128", "model.blocks=[[4]]", "model.dense=16", "timing.seconds=0.01"]
PRUNED = ["method=prune_magnitude", "method.fine_tune.epochs=1", "method.schedule.updates=2"]


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


@pytest.mark.slow
def test_a_plan_says_what_is_trained_and_the_rows_come_as_json_lines(commands: Commands) -> None:
    before, folder = commands.run("--plan", *PRUNED, *FAST)
    assert before.code == 0, before.err
    assert "baseline: trained, how long is not known yet" in before.out
    assert "prune_magnitude: trained, how long is not known yet" in before.out
    assert "(about, from untrained weights)" in before.out
    assert not folder.exists()
    assert not commands.artifacts.exists()

    done, folder = commands.run("--json", *PRUNED, *FAST)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert rows == json.loads((folder / "results.json").read_text())["rows"]
    assert "Written:" in done.err
    assert max(map(len, done.err.split("\n\n")[1].splitlines())) <= 100

    again, _ = commands.run("--plan", *PRUNED, *FAST)
    assert "baseline: found again" in again.out
    assert "trained" not in again.out
    assert "(as measured before)" in again.out
    more, _ = commands.run("--plan", *PRUNED, *FAST, "seed=1")
    assert "baseline: trained, about" in more.out
    assert "prune_magnitude: trained, about" in more.out
    assert "Disk: about" in more.out


def test_a_plan_of_a_survey_has_a_part_for_each_member_and_keeps_nothing(commands: Commands) -> None:
    said, folder = commands.run("-m", "--plan", "method=baseline,quantize_int8", *FAST)
    assert said.code == 0, said.err
    assert "[1/2] run: baseline of small_cnn, seed 0" in said.out
    assert "[2/2] run: quantize_int8 of small_cnn, seed 0" in said.out
    assert "quantize_int8: made, without training" in said.out
    assert not folder.exists()


def test_a_plan_refuses_what_a_run_would_refuse(commands: Commands) -> None:
    said, _ = commands.run("--plan", "method=prune_magnitude", "method.sparsity=1.0", *FAST)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("method.sparsity must be in [0, 1)")


def test_every_command_has_its_name_in_one_program() -> None:
    helped = subprocess.run([sys.executable, "-m", "src"], capture_output=True, text=True, check=True)
    doors = [path.stem for path in Path("src").glob("*.py") if path.stem not in ("__init__", "__main__", "api")]
    assert sorted(line.split()[0] for line in helped.stdout.splitlines()[2:]) == sorted(doors)
    wrong = subprocess.run([sys.executable, "-m", "src", "runn"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("There is no command 'runn'. Did you mean run?")
    typed = [sys.executable, "-m", "src", "import-results", "--help"]
    assert "usage: " in subprocess.run(typed, capture_output=True, text=True, check=True).stdout


def test_a_shell_completes_commands_and_files_of_conf() -> None:
    script = subprocess.run([sys.executable, "-m", "src", "--completion"], capture_output=True, text=True, check=True)
    for typed, meant in (
        ("dnn-compress sea", "search"),
        ("dnn-compress run data=cifar", "data=cifar10 data=cifar100"),
        ("dnn-compress run +experiment=gts", "+experiment=gtsrb_survey"),
    ):
        ask = f"COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _dnn_compress; echo ${{COMPREPLY[@]}}"
        said = subprocess.run(["bash", "-c", f"{script.stdout}{ask}"], capture_output=True, text=True, check=True)
        assert said.stdout.strip() == meant


@pytest.mark.slow
def test_an_installed_wheel_carries_its_configs_and_runs_from_any_folder(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    copied = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.splitlines():
        if name.startswith(("src/", "conf/")) or "/" not in name:
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            (copied / name).write_bytes((root / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "-w", str(tmp_path), str(copied)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    subprocess.run([*pip, "install", *options, "--target", str(installed), str(wheel)], check=True)
    elsewhere.mkdir()
    command = [sys.executable, str(installed / "bin" / "dnn-compress"), "run"]
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def said(*words: str) -> str:
        done = subprocess.run(
            [*command, *words], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "digits_quickstart" in said("--help")
    assert "quantize_int8: made, without training" in said("--plan", "method=quantize_int8", *FAST, "tracking=off")
    assert sorted(path.name for path in elsewhere.iterdir()) == []
