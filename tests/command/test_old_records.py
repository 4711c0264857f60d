"""Every command that takes records takes those that d975084 wrote, before records had a schema."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from src.stages.identity import identity
from tests.commands import Commands
from tests.conftest import MakeStore

OLD = Path(__file__).parents[1] / "records" / "d975084"


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands in a folder that holds what d975084 left there."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Commands(tmp_path, capfd, monkeypatch)


def test_the_records_are_old() -> None:
    records = [path for path in OLD.rglob("*.json") if path.name != "metrics.json"]
    assert len(records) > 15
    assert not [path for path in records if "schema" in json.loads(path.read_text())]


def test_stages_are_listed_and_their_specs_have_the_identities_that_they_had(commands: Commands) -> None:
    said = commands.call("artifacts")
    assert said.code == 0, said.err
    stages = sorted(path.parent for path in (commands.folder / "artifacts").glob("*/stage.json"))
    assert f"{len(stages)} stages" in said.out
    for stage in stages:
        assert identity(json.loads((stage / "stage.json").read_text())["spec"]) == stage.name
        assert stage.name in said.out
    for kind in ("baseline SmallCNN", "step QuantizeInt8", "step Prune", "export OnnxRuntime", "timing of"):
        assert kind in said.out


@pytest.mark.parametrize(("folder", "models"), [("survey", 4), ("run", 2)])
def test_a_run_and_a_survey_are_bundled(commands: Commands, folder: str, models: int) -> None:
    said = commands.call("bundle", folder, "--to", "board.pyz", "--images", "20")
    assert said.code == 0, said.err
    assert said.out.startswith(f"{models} models, 20 of 359 test images of digits")


def test_what_a_board_measured_is_put_beside_the_runs(commands: Commands, mlflow_store: MakeStore) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_store(commands.folder))
    host = client.create_run(client.create_experiment("run")).info
    (record,) = (commands.folder / "artifacts" / ".bundles").glob("*.json")
    before = json.loads(record.read_text())["models"]["digits/baseline.onnxruntime"]["tracking"]["run"]
    record.write_text(record.read_text().replace(before, host.run_id))
    said = commands.call("import_results", "device_results.json")
    assert said.code == 0, said.err
    assert said.out.startswith("2 rows of AMD EPYC, Linux x86_64 are now in sqlite:///mlflow.db")
    runs = client.search_runs([host.experiment_id], "tags.`device_model` = 'digits/prune_quantize.onnxruntime'")
    assert [run.data.metrics["accuracy"] for run in runs] == [0.1]


def test_a_file_beside_its_old_config_predicts(commands: Commands) -> None:
    from PIL import Image

    Image.new("L", (8, 8), 128).save(commands.folder / "grey.png")
    answers = [
        commands.call("predict", f"survey/1_quantize_int8/{name}", "grey.png")
        for name in ("baseline.onnxruntime.onnx", "baseline.openvino.xml")
    ]
    assert [answer.code for answer in answers] == [0, 0], answers
    assert answers[0].out == answers[1].out


@pytest.mark.slow
def test_a_search_goes_on_in_the_database_that_it_had(commands: Commands) -> None:
    with sqlite3.connect(commands.folder / "search.db") as database:
        database.executescript((OLD / "search.sql").read_text())
    before = json.loads((OLD / "search" / "search.json").read_text())
    same = [
        "+search=digits_budget", "training.epochs=3", "training.batch_size=128", "model.blocks=[[8],[16]]",
        "model.dense=32", "training.threads=1", "search.finalists=1", "budget.accuracy_drop=0.5",
        "search.lengths=[1.0]", "hydra.run.dir=search", "tracking=off",
    ]  # fmt: skip
    said = commands.call("search", *same, "search.trials=4")
    assert said.code == 0, said.err
    assert "trial 4/4" in said.out
    assert "trial 1/4" not in said.out
    after = json.loads((commands.folder / "search" / "search.json").read_text())
    assert after["trials"][:3] == before["trials"]
    assert len(after["trials"]) == 4
    said = commands.call("search", *same, "search.trials=4", "budget.size_bytes=1000000")
    assert said.code == 2
    assert "with another budget.size_bytes" in said.err
