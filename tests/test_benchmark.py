"""Files that a run wrote, measured by the command, and what the run's own table says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.deploy.onnxruntime import OnnxRuntime
from tests.commands import Commands

FAST = ["training.epochs=2", "training.batch_size=128", "model.blocks=[[8],[16]]", "model.dense=256"]
BRIEF = ["--seconds", "0.05", "--rounds", "2", "--largest-batch", "2"]
FILES = ["baseline.onnxruntime.onnx", "quantize_int8.onnxruntime.onnx", "quantize_int8.openvino.xml"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the stages of all tests: a network that an earlier test trained is found again."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture
def commands(
    tmp_path: Path, artifacts: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Commands:
    made = Commands(tmp_path, capfd, monkeypatch)
    made.artifacts = artifacts
    return made


class Refusing(OnnxRuntime):
    """A target for which no network can be written."""

    def __init__(self) -> None:
        super().__init__(provider="CPUExecutionProvider", stored="float32")

    def export(self, *_: object, **__: object) -> tuple[Path, ...]:
        raise RuntimeError("operator Relu (features.2) is not known")


def rows_of(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())["rows"]


@pytest.mark.slow
def test_files_of_several_runtimes_are_timed_together(commands: Commands) -> None:
    _, folder = commands.run("method=quantize_int8", "target=[onnxruntime,openvino]", *FAST)
    files = [str(folder / name) for name in FILES]
    said = commands.call("benchmark", *files, *BRIEF, "--operators", "2")
    assert said.code == 0, said.err
    table, *operators = said.out.split("\n\n")
    lines = table.splitlines()
    assert lines[0] == "1 thread, 0.05 s each in 2 turns"
    assert [line.split()[:2] for line in lines[2:]] == [
        [name, runtime] for name, runtime in zip(FILES, ["onnxruntime", "onnxruntime", "openvino"], strict=True)
    ]
    assert all("uJ (estimate)" in line or "uJ (RAPL)" in line for line in lines[2:])
    assert "x (" not in lines[2]
    assert "x (" in lines[3]

    assert [text.partition(", ")[0] for text in operators] == files  # the longest operators of each file
    assert "Conv" in operators[0]
    assert len(operators[0].split("operators:")[1].strip().splitlines()) == 3  # a head and two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.onnx"], "There is no file nothing.onnx"),
        (["README.md"], "no runtime here reads '.md' files"),
        (["README.md", "--seconds", "0"], "--seconds must be more than 0"),
        (["README.md", "--seconds", "nan"], "--seconds must be more than 0"),
        (["README.md", "--largest-batch", "0"], "--largest-batch must be a whole number from 1"),
        (["README.md", "--operators", "0"], "--operators must be a whole number from 1"),
    ],
)
def test_what_cannot_be_measured_is_explained_in_one_line(
    commands: Commands, arguments: list[str], message: str
) -> None:
    said = commands.call("benchmark", *arguments)
    assert said.code == 2
    assert message in said.err
    assert len(said.err.splitlines()) == 1


def test_a_text_that_calls_itself_onnx_is_no_model(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    said = commands.call("benchmark", str(tmp_path / "text.onnx"))
    assert said.code == 2
    assert "text.onnx cannot be loaded by ONNX Runtime" in said.err


@pytest.mark.slow
def test_a_run_says_how_its_files_run_and_what_they_are_faster_by(commands: Commands) -> None:
    _, folder = commands.run("method=quantize_int8", *FAST)
    base, row = rows_of(folder)
    assert base["speedup"] == 1
    assert row["speedup_low"] <= row["speedup"] <= row["speedup_high"]
    assert row["latency_ms_p50"] <= row["latency_ms_p95"] <= row["latency_ms_p99"]
    assert row["throughput_per_s"] > 0
    assert row["throughput_batch"] in (1, 2)
    assert row["load_ms"] > 0
    assert row["peak_memory_bytes"] > 1e6
    assert row["energy_uj_estimate"] < 0.4 * base["energy_uj_estimate"]
    assert base["agreement"] == 1
    assert base["logit_difference_max"] < 1e-4


def test_a_target_that_cannot_hold_the_network_leaves_the_others_their_rows(commands: Commands) -> None:
    refusing = "+target.refusing={_target_: tests.test_benchmark.Refusing}"
    said, folder = commands.run(refusing, *FAST)
    assert said.code == 0, said.err
    assert [row["target"] for row in rows_of(folder)] == ["onnxruntime"]
    assert "Not exportable: baseline: target.refusing: the network cannot be exported: operator Relu" in said.out
    (refused,) = json.loads((folder / "results.json").read_text())["not_exportable"]
    assert (refused["variant"], refused["target"]) == ("baseline", "refusing")


def test_if_no_target_can_hold_the_network_nothing_is_trained(commands: Commands, tmp_path: Path) -> None:
    commands.artifacts = tmp_path / "artifacts"
    said, folder = commands.run(
        "~target.onnxruntime", "+target.refusing={_target_: tests.test_benchmark.Refusing}", *FAST
    )
    assert said.code == 2
    assert said.err.startswith("target.refusing: the network cannot be exported: operator Relu (features.2)")
    assert not list(commands.artifacts.glob("*/stage.json"))
    assert not folder.exists()


def test_a_model_that_cannot_fit_the_board_is_refused_before_training(commands: Commands, tmp_path: Path) -> None:
    commands.artifacts = tmp_path / "artifacts"
    said, _ = commands.run("board.name=tiny", "board.storage_bytes=1000", *FAST)
    assert said.code == 2
    assert "does not fit board tiny" in said.err
    assert "needs most" in said.err
    assert not list(commands.artifacts.glob("*/stage.json"))


def test_only_what_ships_must_fit_the_board(commands: Commands) -> None:
    _, folder = commands.run("method=quantize_int8", *FAST)
    base, row = rows_of(folder)
    limit = f"board.storage_bytes={(base['size_bytes'] + row['size_bytes']) // 2}"
    said, _ = commands.run("method=quantize_int8", "board.name=small", limit, *FAST)
    assert said.code == 0, said.err
    said, _ = commands.run("method=prune_magnitude", "board.name=small", limit, *FAST)
    assert said.code == 2
    assert "does not fit board small" in said.err


def test_files_timed_in_two_ways_are_two_rows_of_a_survey(commands: Commands) -> None:
    _, folder = commands.run("hydra.mode=MULTIRUN", "method=quantize_int8", "timing.threads=1,2", *FAST)
    rows = json.loads((folder / "survey.json").read_text())["rows"]
    assert [(row["variant"], row["settings"]) for row in rows] == [
        ("baseline", ["timing.threads=1"]),
        ("baseline", ["timing.threads=2"]),
        ("quantize_int8", ["timing.threads=1"]),
        ("quantize_int8", ["timing.threads=2"]),
    ]


@pytest.mark.slow
def test_members_that_joblib_spreads_time_their_files_too(commands: Commands) -> None:
    two = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "timing.seconds=0.05", "timing.largest_batch=1"]
    said, folder = commands.run("hydra.mode=MULTIRUN", "method=baseline,quantize_int8", *two, *FAST)
    assert said.code == 0, said.err
    rows = json.loads((folder / "survey.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["baseline", "quantize_int8"]
    assert all(row["latency_ms_p50"] > 0 for row in rows)


def test_channels_that_cost_time_in_tensorrt_are_named(commands: Commands) -> None:
    said, _ = commands.run("target=[tensorrt]", "model.blocks=[[6],[16]]", *FAST[:2], "model.dense=256")
    assert said.code == 0, said.err
    assert "baseline.tensorrt.onnx: " in said.out
    assert "multiple" in said.out


def test_a_board_without_int8_units_says_what_int8_is_good_for(commands: Commands) -> None:
    said, _ = commands.run("board=jetson_nano", "method=quantize_int8", *FAST)
    assert said.code == 0, said.err
    assert said.out.count("Board jetson_nano has no unit for int8") == 1


def test_a_budget_of_energy_is_kept_or_exits_with_4(commands: Commands) -> None:
    arguments = ["method=quantize_int8", *FAST]
    _, folder = commands.run(*arguments)
    needed = rows_of(folder)[1]["energy_uj_estimate"]
    kept, _ = commands.run(*arguments, f"budget.energy_uj={1.01 * needed}")
    assert kept.code == 0
    missed, _ = commands.run(*arguments, f"budget.energy_uj={0.99 * needed}")
    assert missed.code == 4
    assert "uJ, allowed are" in missed.out
