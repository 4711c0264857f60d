"""A config from a file is data: a class that it names is built only if it stands in ``conf/``, or the user says so."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from src.command.trust import check_config, classes_in_conf, plain_options, read_config
from src.contracts import InputError
from tests.commands import Commands, Said

OLD = Path(__file__).parents[1] / "records" / "d975084"
FILE = "run/baseline.onnxruntime.onnx"
BRIEF = ["--seconds", "0.02", "--rounds", "2", "--largest-batch", "1"]
TARGET = {"_target_": "src.deploy.onnxruntime.OnnxRuntime", "provider": "CPUExecutionProvider", "stored": "float32"}


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands in a folder that holds a run and a survey, and an image."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "digit.png")
    return Commands(tmp_path, capfd, monkeypatch)


def call(commands: Commands, command: str, *more: str) -> Said:
    arguments = {
        "predict": [FILE, "digit.png"],
        "benchmark": [FILE, *BRIEF],
        "bundle": ["run", "--to", "board.pyz", "--images", "20"],
    }
    return commands.call(command, *arguments[command], *more)


def spoil(folder: Path, key: str, value: Any) -> None:
    path = folder / "run" / "config.yaml"
    config = OmegaConf.load(path)
    OmegaConf.update(config, key, value, merge=False)
    OmegaConf.save(config, path)


def program(folder: Path) -> dict[str, Any]:
    """A config that runs a program, which makes a file."""
    write = f"open({str(folder / 'intruded')!r}, 'w')"
    return {"_target_": "subprocess.Popen", "_args_": [[sys.executable, "-c", write]]}


def refused(said: Said, *texts: str) -> None:
    assert said.code == 2, said.err
    assert len(said.err.splitlines()) == 1
    assert [text for text in texts if text not in said.err] == []


ATTACKS = [
    ("predict", "target.onnxruntime"),
    ("benchmark", "target.onnxruntime"),
    ("bundle", "target.onnxruntime"),
    ("bundle", "data"),
    ("bundle", "data.augmentation"),
]


@pytest.mark.parametrize(("command", "key"), ATTACKS)
def test_a_config_beside_a_file_or_in_a_folder_runs_no_program(commands: Commands, command: str, key: str) -> None:
    spoil(commands.folder, key, program(commands.folder))
    said = call(commands, command)
    refused(said, f"{key}._target_ is subprocess.Popen", "config.yaml", "--trust")
    assert not (commands.folder / "intruded").exists()


@pytest.mark.parametrize("command", ["predict", "benchmark", "bundle"])
def test_what_the_user_trusts_is_built(commands: Commands, command: str) -> None:
    key, value = {
        "bundle": ("data", {**OmegaConf.load("run/config.yaml").data, "_target_": "tests.command.test_trust.Marking"}),
    }.get(command, ("target.onnxruntime", {**TARGET, "_target_": "tests.command.test_trust.MarkingRuntime"}))
    spoil(commands.folder, key, value)
    refused(call(commands, command), "--trust")
    assert not Path("built").exists()
    said = call(commands, command, "--trust")
    assert said.code == 0, said.err
    assert Path("built").exists()


def Marking(**options: Any) -> Any:  # noqa: N802  (stands for a class of a user's)
    """The digits, and a file that says that they were built."""
    from src.data.digits import Digits

    Path("built").touch()
    return Digits(**options)


def MarkingRuntime(**options: Any) -> Any:  # noqa: N802
    from src.deploy.onnxruntime import OnnxRuntime

    Path("built").touch()
    return OnnxRuntime(**options)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("target.onnxruntime.intruder", 1, "OnnxRuntime has no option target.onnxruntime.intruder"),
        ("target.onnxruntime.stored", {"_target_": "os.getcwd"}, "must be a number, a word or a truth value"),
        ("target.onnxruntime.stored", "${oc.env:HOME}", "must be a number, a word or a truth value"),
        ("target.onnxruntime.stored", 16, "target.onnxruntime.stored must be a word, and is 16"),
        ("target.onnxruntime._partial_", True, "OnnxRuntime has no option target.onnxruntime._partial_"),
        ("target.onnxruntime", "a word", "target.onnxruntime is no mapping of options"),
        ("target", "a word", "target is no mapping of targets"),
    ],
)
def test_only_plain_options_of_the_known_target_are_taken(commands: Commands, key: str, value: Any, text: str) -> None:
    spoil(commands.folder, key, value)
    refused(call(commands, "predict"), text)


def test_an_option_of_the_known_target_is_taken(commands: Commands) -> None:
    spoil(commands.folder, "target.onnxruntime.provider", "ROCMExecutionProvider")
    refused(call(commands, "predict"), "has no ROCMExecutionProvider")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("data.root", "${oc.env:HOME}", "data.root is ${oc.env:HOME}, and a file may not look up values"),
        ("data._partial_", True, "data._partial_ is no plain option"),
        ("data.mean", [{"_target_": "os.getcwd"}], "data.mean.0._target_ is os.getcwd"),
        ("data", "a word", "names no data"),
        ("artifacts", 3, "names no data or no artifacts"),
    ],
)
def test_the_data_of_a_bundle_are_plain_options_of_classes_in_conf(
    commands: Commands, key: str, value: Any, text: str
) -> None:
    spoil(commands.folder, key, value)
    refused(call(commands, "bundle"), text)


def test_a_result_names_no_file_outside_its_folder(commands: Commands) -> None:
    path = commands.folder / "run" / "results.json"
    path.write_text(path.read_text().replace('"baseline.onnxruntime.onnx"', '"../run/baseline.onnxruntime.onnx"'))
    refused(call(commands, "bundle"), "is no name of a file in its folder")


def test_the_known_classes_are_those_of_conf_by_exact_name() -> None:
    assert "src.data.augmentation.Flip" in classes_in_conf("data")  # nested in another
    assert {name.rpartition(".")[0] for name in classes_in_conf("target")} > {"src.deploy.openvino"}
    for name in (
        "src.files.writing.write_text",
        "src.data.digits",
        "src.data.digits.Digits.load",
        "???",
        "psutil.Popen",
    ):
        with pytest.raises(InputError, match="which is no class of conf/data"):
            check_config({"_target_": name}, "data", "data", Path("config.yaml"))
    check_config(
        {"_target_": "src.data.digits.Digits", "mean": [0.5], "root": None}, "data", "data", Path("config.yaml")
    )


def test_the_class_of_a_target_stays_that_of_conf() -> None:
    source = Path("config.yaml")
    assert plain_options({"stored": "float16"}, "target.x", TARGET, source)["_target_"] == TARGET["_target_"]
    with pytest.raises(InputError, match="target.x._target_ is src.deploy.openvino.OpenVino, and that of conf/target"):
        plain_options({"_target_": "src.deploy.openvino.OpenVino"}, "target.x", TARGET, source)


@pytest.mark.parametrize("text", ["a: [", "- 1", "a: &a [1, 1]\nb: [*a, *a]", "a: !!python/object/apply:os.getcwd []"])
def test_what_no_run_wrote_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml is damaged") as caught:
        read_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)
