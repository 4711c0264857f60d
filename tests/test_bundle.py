"""From a run to a bundle, to a board's results, and back beside the run."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.command.composition import composed
from src.command.execution import execute
from src.device.__main__ import main as evaluate
from src.device.manifest import Bundle
from src.display.terminal import Console
from src.experiment.results import write_survey
from tests.commands import Commands, Said
from tests.plans import TINY

RECORDS = ("config.yaml", "results.json", "survey.json")
SMALL = ["model.blocks=[[4]]", "model.dense=8", "timing.seconds=0.02", "timing.rounds=2", "timing.largest_batch=2"]


def experiment(folder: Path, store: Path, *overrides: str, survey: Path | None = None) -> Path:
    """Run a tiny experiment into ``folder``, as a command does; its stages and tracking lie in ``store``."""
    folder.mkdir(parents=True)
    tracked = [] if "tracking=off" in overrides else ["tracking=jsonl", f"tracking.uri={store}/tracking.jsonl"]
    tiny = [one for one in TINY if not (one.startswith("data") and "data=digits" in overrides)]
    resolved, choices = composed([*tiny, *SMALL, *tracked, f"artifacts={store}/artifacts", *overrides])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(resolved)))
    console = Console(io.StringIO(), "")
    execute(resolved, choices, folder, console=console, command="", overrides=list(overrides), survey=survey)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A survey of two tracked members, and a run of another seed that is not tracked."""
    store = tmp_path_factory.mktemp("made")
    survey = store / "survey"
    for at, method in enumerate(("baseline", "cluster")):
        target = "target=[onnxruntime,openvino]" if method == "baseline" else "target=onnxruntime"
        experiment(survey / f"{at}_{method}", store, f"method={method}", target, survey=survey)
    write_survey(survey, ["0_baseline", "1_cluster"])
    experiment(store / "other", store, "method=baseline", "seed=1", "tracking=off")
    return store


@pytest.fixture
def there(made: Path, tmp_path: Path) -> Path:
    """A copy of what was made that a test may spoil; its records name the copy's stages and tracking store."""
    shutil.copytree(made, tmp_path / "made")
    for record in [path for name in RECORDS for path in (tmp_path / "made").rglob(name)]:
        record.write_text(record.read_text().replace(str(made), str(tmp_path / "made")))
    return tmp_path / "made"


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


def pack(commands: Commands, folder: Path, *runs: str, images: str = "all", to: str = "board.pyz") -> Said:
    folders = [str(folder / run) for run in runs]
    artifacts = ["--artifacts", str(folder / "artifacts")]
    return commands.call("bundle", *folders, "--to", str(folder / to), "--images", images, *artifacts)


def on_board(folder: Path) -> Path:
    """The results of the folder's bundle, measured here as a board would."""
    out = folder / "device_results.json"
    assert evaluate([str(folder / "board.pyz"), "--seconds", "0.02", "--out", str(out)]) == 0
    return out


def imported(commands: Commands, folder: Path, file: Path) -> Said:
    return commands.call(
        "import_results", str(file), "--artifacts", str(folder / "artifacts"), "--uri", str(folder / "tracking.jsonl")
    )


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (folder / "tracking.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def refused(said: Said, text: str) -> None:
    assert said.code == 2
    assert text in said.err
    assert len(said.err.splitlines()) == 1


def test_a_bundle_that_the_board_would_refuse_is_not_written(commands: Commands, there: Path) -> None:
    path = there / "other" / "config.yaml"
    config = OmegaConf.load(path)
    config.data.mean, config.data.std = [1.2, 0.5, 0.5], [0.5, 0.5, 0.5]
    path.write_text(OmegaConf.to_yaml(config))
    said = pack(commands, there, "other", images="2")
    refused(
        said, f"The board would refuse {there / 'board.pyz'}: its manifest.json is not as this evaluator expects it"
    )
    assert "samples[shapes].mean[0] is 1.2, and must be a number from 0 to 1" in said.err
    assert not (there / "board.pyz").exists()
    assert not list((there / "artifacts" / ".bundles").glob("*.json"))


def test_a_survey_measured_again_has_the_hosts_accuracies_and_stands_beside_its_runs_once(
    commands: Commands, there: Path
) -> None:
    said = pack(commands, there, "survey")
    assert (said.code, said.err) == (0, "")
    assert "3 models, 60 of 60 test images of shapes" in said.out
    out = on_board(there)
    found = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    host = {
        f"shapes/{row['variant']}.{row['target']}": row
        for row in json.loads((there / "survey" / "survey.json").read_text())["rows"]
    }
    names = {f"shapes/{name}" for name in ("baseline.onnxruntime", "baseline.openvino", "cluster.onnxruntime")}
    assert set(found) == set(host) == names
    for name, row in host.items():
        assert found[name]["accuracy"] == row["accuracy"]
        assert found[name]["size_bytes"] == row["size_bytes"]

    runs = {event["run"]: event for event in events(there, "run_started")}
    cluster = json.loads((there / "survey" / "1_cluster" / "results.json").read_text())["tracking_run"]
    said = imported(commands, there, out)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("3 rows of ")
    assert len(events(there, "device_row")) == 3
    name = "shapes/cluster.onnxruntime"
    logged = next(event for event in events(there, "device_row") if event["name"] == name)
    assert logged["metrics"]["accuracy"] == found[name]["accuracy"]
    assert logged["metrics"]["latency_ms_p99"] == found[name]["latency_ms"]["p99"]
    assert logged["parent"] == runs[cluster]["parent"]
    assert logged["host_run"] == cluster
    assert "3 were there already" in imported(commands, there, out).out
    assert len(events(there, "device_row")) == 3


def test_equal_content_makes_equal_bytes(commands: Commands, there: Path) -> None:
    for name in ("board.pyz", "again.pyz"):
        assert pack(commands, there, "survey", to=name).code == 0
    assert (there / "board.pyz").read_bytes() == (there / "again.pyz").read_bytes()
    assert (there / "board.pyz").read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert (there / "board.pyz").stat().st_mode & 0o100
    names = zipfile.ZipFile(there / "board.pyz").namelist()
    assert names == sorted(names)


def test_a_run_beside_a_survey_gets_names_of_its_own(commands: Commands, there: Path) -> None:
    assert pack(commands, there, "survey", "other").code == 0
    names = [model["name"] for model in Bundle(there / "board.pyz").models]
    assert len(names) == len(set(names)) == 4
    assert {"shapes/baseline_seed_0.onnxruntime", "shapes/baseline_seed_1.onnxruntime"} < set(names)


def test_records_of_before_there_was_a_schema_are_packed_alike(commands: Commands, there: Path) -> None:
    assert pack(commands, there, "survey", "other").code == 0
    before = (there / "board.pyz").read_bytes()
    for path in there.rglob("results.json"):
        path.write_text(json.dumps(as_schema_1(json.loads(path.read_text()))))
    (there / "survey" / "survey.json").write_text("{}")  # says that it is a survey: its members are read
    assert pack(commands, there, "survey", "other").code == 0
    assert (there / "board.pyz").read_bytes() == before


def as_schema_1(record: dict[str, Any]) -> dict[str, Any]:
    """``results.json`` as it was written before there was a schema: precision and runtime were sentences."""
    rows = []
    for row in record["rows"]:
        sentences = {"precision": " and ".join(row["precision"]["computes"]), "runtime": row["runtime"]["name"]}
        rows.append({key: row[key] for key in row if key not in ("accuracy_change", "seed")} | sentences)
    return {key: value for key, value in record.items() if key not in ("schema", "tracking")} | {"rows": rows}


def test_a_run_and_a_survey_of_d975084_are_packed(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(__file__).parent / "records" / "d975084", tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    said = pack(commands, tmp_path / "old", "run", "survey", images="20")
    assert (said.code, said.err) == (0, "")
    models = {model["name"]: model for model in Bundle(tmp_path / "old" / "board.pyz").models}
    assert set(models) == {
        "digits/baseline.onnxruntime",
        "digits/baseline.openvino",
        "digits/prune_quantize.onnxruntime",
        "digits/quantize_int8.onnxruntime",
        "digits/quantize_int8.openvino",
    }
    int8 = models["digits/quantize_int8.openvino"]
    assert (int8["precision"], int8["computes"]) == ("int8", ["int8"])
    assert int8["runtime"] == {"name": "openvino", "provider": None, "stands_in_for": None}


def test_a_run_named_twice_is_packed_once(commands: Commands, there: Path) -> None:
    assert pack(commands, there, "survey", "survey", "survey/0_baseline").code == 0
    assert len(Bundle(there / "board.pyz").models) == 3


def test_another_data_set_is_another_sample(commands: Commands, there: Path) -> None:
    experiment(there / "digits", there, "method=baseline", "tracking=off", "data=digits")
    assert pack(commands, there, "survey", "digits", images="30").code == 0
    packed = Bundle(there / "board.pyz")
    assert {model["sample"] for model in packed.models} == {"shapes", "digits"}
    assert [len(packed.sample(name)[1]) for name in ("shapes", "digits")] == [30, 30]
    found = {row["name"] for row in json.loads(on_board(there).read_text())["rows"]}
    assert {"digits/baseline.onnxruntime", "shapes/baseline.onnxruntime"} < found


def test_results_of_runs_that_were_not_tracked_or_of_an_unknown_bundle_are_refused(
    commands: Commands, there: Path
) -> None:
    assert pack(commands, there, "other").code == 0
    out = on_board(there)
    refused(imported(commands, there, out), "were not tracked")
    refused(imported(commands, there / "survey", out), "is not known in")


def test_a_folder_that_is_no_run_is_refused(commands: Commands, there: Path) -> None:
    refused(pack(commands, there, "artifacts"), "is no run and no survey")
    refused(pack(commands, there, "nowhere"), "is no run and no survey")
    assert not (there / "board.pyz").exists()


def test_a_file_that_is_not_the_measured_one_is_refused(commands: Commands, there: Path) -> None:
    (there / "other" / "baseline.onnxruntime.onnx").unlink()  # a link to the stage's
    refused(pack(commands, there, "other"), "is not there")
    (there / "other" / "baseline.onnxruntime.onnx").write_bytes(b"no model")
    refused(pack(commands, there, "other"), "is not the file that was measured")
    assert not (there / "board.pyz").exists()


def test_other_images_than_those_that_were_measured_are_refused(commands: Commands, there: Path) -> None:
    config = there / "other" / "config.yaml"
    config.write_text(config.read_text().replace("draw_seed: 0", "draw_seed: 1"))
    refused(pack(commands, there, "other"), "was measured on other images")


def test_images_that_nothing_identifies_are_refused(commands: Commands, there: Path) -> None:
    shutil.rmtree(there / "artifacts")
    refused(pack(commands, there, "other"), "nothing says on which images it was measured")


@pytest.mark.parametrize("images", ["0", "-1", "some", "1.5"])
def test_an_empty_sample_is_refused(commands: Commands, tmp_path: Path, images: str) -> None:
    said = commands.call("bundle", str(tmp_path), "--to", str(tmp_path / "board.pyz"), f"--images={images}")
    refused(said, "--images must be a number from 1 or 'all'")


def test_a_place_that_does_not_exist_is_refused(commands: Commands, tmp_path: Path) -> None:
    refused(pack(commands, tmp_path, "other", to="nowhere/board.pyz"), "--to must name a file in a folder that exists")
