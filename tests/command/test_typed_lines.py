"""What a person may type: each mistyped line of docs/troubleshooting.md gets its one line, without torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src.command import command_line
from src.command.composition import composed
from src.command.config_checks import check_values
from src.command.exits import CONF
from src.contracts import InputError
from tests.commands import Commands
from tests.typed_lines import documented

ROOT = CONF.parent
LINES = documented()
DOORS = [
    "run",
    "describe",
    "pack",
    "unpack",
    "search",
    "sensitivity",
    "predict",
    "benchmark",
    "bundle",
    "artifacts",
    "promote",
    "sync",
    "import_results",
    "pipeline",
]


def typed(lines: list[str], folder: Path, *flags: str, **environment: str) -> list[dict[str, Any]]:
    """What each line gets, all of them in one fresh process that works in ``folder``."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, *flags, str(ROOT / "tests" / "typed_lines.py")]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, encoding="utf-8", cwd=folder, env=given, check=True
    )
    said: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("typed")
    (folder / "photo.png").write_text("no image")
    (folder / "leaves").mkdir()
    (folder / "params.yaml").write_text("data: [digits\n")
    answers = typed([line for line, _ in LINES], folder)
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == ["params.yaml", "photo.png"]  # no folder of a run
    return {line: answer for (line, _), answer in zip(LINES, answers, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize(("line", "gets"), LINES, ids=[line for line, _ in LINES])
def test_a_mistyped_line_gets_the_line_of_the_docs(said: dict[str, Any], line: str, gets: str) -> None:
    answer = said[line]
    assert answer["code"] == 2, answer
    assert re.fullmatch(re.escape(gets).replace("…", ".*"), answer["err"].rstrip("\n")), answer["err"]
    assert answer["out"] == ""
    assert not answer["torch"], "torch was imported before the line was refused"


def test_the_docs_hold_many_lines_over_all_commands() -> None:
    assert len(LINES) > 100
    assert {line.split()[0] for line, _ in LINES} == set(DOORS)


def test_help_of_every_command_imports_no_torch(tmp_path: Path) -> None:
    for door, answer in zip(DOORS, typed([f"{door} --help" for door in DOORS], tmp_path), strict=True):
        assert answer["code"] in (0, None), (door, answer)
        assert f"python -m src.{door}" in answer["out"]
        assert not answer["torch"], door


def test_another_python_is_said_by_every_command(tmp_path: Path) -> None:
    lines = ["run seed=1", "search", "predict a b", "promote a 1 smallest", "artifacts", "pipeline compose"]
    for answer in typed(lines, tmp_path, "-S"):  # -S: without installed packages
        assert answer["code"] == 2
        assert re.fullmatch(r".* has no package 'hydra', so it is not this project's Python: .*\n", answer["err"])


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_that_is_not_utf8_is_written_to(tmp_path: Path, environment: dict[str, str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONCOERCECLOCALE": "0", **environment}
    for words in (["run", "--help"], ["run", "board=é…±"], ["predict", "--help"], ["benchmark", "é.onnx"]):
        command = [sys.executable, "-m", f"src.{words[0]}", *words[1:]]
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)
        assert done.returncode == (0 if "--help" in words else 2)
        assert "Traceback" not in done.stderr.decode()
        assert (done.stdout + done.stderr).decode("ascii")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=custom", "model._target_=my_nets.Leaf", "+model.width=3"],
        ["data=custom", "data._target_=my_data.Leaves", "+data.colour=red"],
        ["model=timm", "model.name=resnet18", "+model.drop_rate=0.1"],
        ["training.optimizer._target_=torch.optim.AdamW", "+training.optimizer.fused=true"],
        ["+my_rate=0.1", "training.optimizer.lr=${my_rate}"],
        ["+tracking.tags.owner=Anna", "hydra.job.chdir=false"],
        ["method=chain", "method.name=mine", "+method.steps.int8._target_=my_methods.Mine", "+method.steps.int8.x=1"],
    ],
)
def test_keys_that_something_reads_are_taken(overrides: list[str]) -> None:
    check_values(composed(overrides)[0])


@pytest.mark.parametrize("file", sorted(CONF.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_file_of_conf_passes_the_checks(file: Path) -> None:
    group = file.parent.name
    if group in ("space", "sampler", "loss") or file.stem.startswith("fine_tune"):
        pytest.skip("a part of other files")
    if group in ("augmentation", "mixing"):
        check_values(composed(["data=shapes", f"+{group}@data.{group}={file.stem}"])[0])
        return
    plus = "+" if group in command_line.ADDED else ""
    name = f"[{file.stem}]" if group in command_line.LISTS else file.stem
    named = ["method.name=mine"] if file.stem == "chain" else []  # a chain of one's own needs a name
    check_values(composed([f"{plus}{group}={name}", *named], "search" if group == "search" else "config")[0])


def test_the_options_are_those_of_hydra() -> None:
    from hydra._internal.utils import get_args_parser

    actions = get_args_parser()._option_string_actions
    assert set(command_line.OPTIONS) == set(actions)
    assert {option for option, action in actions.items() if action.nargs is None} == {
        option for option, values in command_line.OPTIONS.items() if values
    }


def test_options_go_in_front_and_a_repeated_key_is_said() -> None:
    line = ["method=cluster", "-m", "seed=0,1", "seed=2", "--cfg", "job"]
    assert command_line.read_command_line(line) == ["-m", "--cfg", "job", "method=cluster", "seed=0,1", "seed=2"]
    assert command_line.remarks(line) == ["seed is given twice, seed=0,1 and seed=2: the last counts"]


@pytest.mark.parametrize("value", ["~/a", "a=b", "it's", "(1)", "a#b", "blätter", 'say "x" #', "a\\ #", "[x] (y)"])
def test_the_quoted_line_means_the_value(value: str) -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    with pytest.raises(InputError) as refused:
        command_line.read_command_line([f"data.root={value}"])
    shown = str(refused.value)
    quoted = shlex.split(shown.rpartition("quote the value, ")[2])
    assert OverridesParser.create().parse_overrides(quoted)[0].value() == value


def test_a_learning_rate_of_nothing_in_a_later_step_is_refused() -> None:
    plain, _ = composed(["method=prune_quantize", "method.steps.prune.fine_tune.optimizer.lr=0.0"])
    with pytest.raises(InputError, match=r"method.steps.prune.fine_tune.optimizer.lr must be a finite number above 0"):
        check_values(plain)


def test_a_mistake_that_some_members_make_fails_these_alone_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said, _ = Commands(tmp_path, capfd, monkeypatch).run("-m", "seed=abc,xyz")
    assert said.code == 2
    assert said.err.count("[1/2] failed: seed must be a whole number") == 1
