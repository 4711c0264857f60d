"""From a run to a bundle, to a board's results, and back beside the run."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from src import results
from src.bundle import bundle, labels, pick
from src.composition import composed
from src.console import Report
from src.contracts import ImageSet
from src.device.__main__ import main as evaluate
from src.device.manifest import Bundle
from src.execution import execute
from src.tracking.mlflow import finish_survey
from tests.commands import Commands, Said
from tests.plans import TINY

FAST = ["model.blocks=[[4]]", "model.dense=8", "tracking.system_metrics=false"]


def experiment(folder: Path, store: Path, *overrides: str, parent: Path | None = None) -> Path:
    """Run a tiny experiment into ``folder``, as a command does."""
    folder.mkdir(parents=True)
    tracked = [] if "tracking=off" in overrides else [*FAST[2:], f"tracking.uri=sqlite:///{store}/mlflow.db"]
    tiny = [one for one in TINY if not (one.startswith("data") and "data=digits" in overrides)]
    asked = [*tiny, *FAST[:2], *tracked, f"artifacts={store}/artifacts", *overrides]
    resolved, chosen = composed(asked)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(resolved)))
    execute(
        resolved, chosen, folder, report=Report(io.StringIO(), ""), command="", overrides=list(overrides), parent=parent
    )
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A survey of two tracked members, and a run of another seed that is not tracked."""
    store = tmp_path_factory.mktemp("made")
    survey = store / "survey"
    for at, method in enumerate(("baseline", "cluster")):
        target = "target=[onnxruntime,openvino]" if method == "baseline" else "target=onnxruntime"
        experiment(survey / f"{at}_{method}", store, f"method={method}", target, parent=survey)
    results.write_survey(survey)
    finish_survey(survey, "FINISHED")
    experiment(store / "other", store, "method=baseline", "seed=1", "tracking=off")
    return store


@pytest.fixture(scope="module")
def board(made: Path) -> Path:
    """The survey's bundle, remembered, and what it wrote on a board; in the folder of ``made``."""
    bundle([made / "survey"], made / "board.pyz", "all", made / "artifacts")
    on_board(made)
    return made


@pytest.fixture
def there(made: Path, tmp_path: Path) -> Path:
    """A copy of what was made that a test may spoil; its configs name the copy's stages."""
    shutil.copytree(made, tmp_path / "made", ignore=shutil.ignore_patterns("board.pyz"))
    for config in (tmp_path / "made").rglob("config.yaml"):
        config.write_text(config.read_text().replace(str(made), str(tmp_path / "made")))
    return tmp_path / "made"


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


def pack(commands: Commands, folder: Path, *runs: str, images: str = "all", to: str = "board.pyz") -> Said:
    asked = [str(folder / run) for run in runs]
    artifacts = ["--artifacts", str(folder / "artifacts")]
    return commands.call("bundle", *asked, "--to", str(folder / to), "--images", images, *artifacts)


def on_board(folder: Path) -> Path:
    out = folder / "device_results.json"
    assert evaluate([str(folder / "board.pyz"), "--seconds", "0.02", "--out", str(out)]) == 0
    return out


def imported(commands: Commands, folder: Path, file: Path) -> Said:
    return commands.call("import_results", str(file), "--artifacts", str(folder / "artifacts"))


def refused(said: Said, text: str) -> None:
    assert said.code == 2
    assert text in said.err
    assert len(said.err.splitlines()) == 1


def test_a_survey_measured_again_has_the_hosts_accuracies(commands: Commands, there: Path) -> None:
    said = pack(commands, there, "survey")
    assert (said.code, said.err) == (0, "")
    assert "3 models, 60 of 60 test images of shapes" in said.out
    found = {row["name"]: row for row in json.loads(on_board(there).read_text())["rows"]}
    host = {
        f"shapes/{row['variant']}.{row['target']}": row
        for row in json.loads((there / "survey" / "survey.json").read_text())["rows"]
    }
    assert (
        set(found)
        == set(host)
        == {f"shapes/{n}" for n in ("baseline.onnxruntime", "baseline.openvino", "cluster.onnxruntime")}
    )
    for name, row in host.items():
        assert found[name]["accuracy"] == row["accuracy"]
        assert found[name]["size_bytes"] == row["size_bytes"]


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


def test_results_stand_beside_the_hosts_runs_once(commands: Commands, board: Path) -> None:
    from mlflow import MlflowClient

    out = board / "device_results.json"
    client = MlflowClient(tracking_uri=f"sqlite:///{board}/mlflow.db")
    host = client.get_run(json.loads((board / "survey" / "1_cluster" / "results.json").read_text())["tracking_run"])
    said = imported(commands, board, out)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("3 rows of ")
    runs = client.search_runs([host.info.experiment_id], "tags.board != ''")
    assert len(runs) == 3
    run = next(run for run in runs if run.data.tags["device_model"] == "shapes/cluster.onnxruntime")
    row = next(r for r in json.loads(out.read_text())["rows"] if r["name"] == "shapes/cluster.onnxruntime")
    assert run.data.metrics["accuracy"] == row["accuracy"]
    assert run.data.metrics["latency_ms_p99"] == row["latency_ms"]["p99"]
    assert run.data.tags["mlflow.parentRunId"] == host.data.tags["mlflow.parentRunId"]
    assert run.data.tags["host_run"] == host.info.run_id
    assert run.info.status == "FINISHED"
    assert "3 were there already" in imported(commands, board, out).out
    assert len(client.search_runs([host.info.experiment_id], "tags.board != ''")) == 3


def test_a_host_run_that_is_gone_leaves_nothing_behind(commands: Commands, board: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    content = json.loads((board / "device_results.json").read_text())
    record = json.loads((board / "artifacts" / ".bundles" / f"{content['bundle']}.json").read_text())
    record["models"]["shapes/cluster.onnxruntime"]["tracking"]["run"] = "0" * 32
    (tmp_path / "artifacts" / ".bundles").mkdir(parents=True)
    (tmp_path / "artifacts" / ".bundles" / f"{content['bundle']}.json").write_text(json.dumps(record))
    out = tmp_path / "device_results.json"
    out.write_text(json.dumps({**content, "measured_at": "2000-01-01T00:00:00+00:00"}))
    refused(imported(commands, tmp_path, out), "0" * 32)
    client = MlflowClient(tracking_uri=f"sqlite:///{board}/mlflow.db")
    every = [experiment.experiment_id for experiment in client.search_experiments()]
    assert not client.search_runs(every, "tags.measured_at = '2000-01-01T00:00:00+00:00'")


def test_results_of_an_unknown_bundle_are_refused(commands: Commands, board: Path, tmp_path: Path) -> None:
    refused(imported(commands, tmp_path, board / "device_results.json"), "is not known in")


def test_results_of_runs_that_were_not_tracked_are_refused(commands: Commands, there: Path) -> None:
    assert pack(commands, there, "other").code == 0
    refused(imported(commands, there, on_board(there)), "were not tracked")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content.clear(), "holds no results of a board"),
        (lambda content: content.update(rows=[1]), "holds no results of a board"),
        (lambda content: content["rows"][0].update(name=["a"]), "holds no results of a board"),
        (lambda content: content.update(rows=[]), "has no row"),
        (lambda content: content["rows"][0].update(name="another"), "has no model for: another"),
        (lambda content: content["rows"][0].pop("latency_ms"), "is not as a bundle writes it: KeyError 'latency_ms'"),
        (lambda content: content["rows"][0].update(accuracy=1.5), "accuracy is no number"),
        (lambda content: content.update(bundle="../../x"), "is not known in"),
    ],
)
def test_damaged_results_are_refused(  # type: ignore[no-untyped-def]
    commands: Commands, board: Path, tmp_path: Path, spoil, said: str
) -> None:
    content = json.loads((board / "device_results.json").read_text())
    spoil(content)
    out = tmp_path / "device_results.json"
    out.write_text(json.dumps(content))
    refused(imported(commands, board, out), said)


def test_no_results_at_all_are_refused(commands: Commands, tmp_path: Path) -> None:
    refused(imported(commands, tmp_path, tmp_path / "nowhere.json"), "There is no file")
    (tmp_path / "r.json").write_text("no results")
    refused(imported(commands, tmp_path, tmp_path / "r.json"), "holds no results of a board")


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
def test_an_empty_sample_is_refused(commands: Commands, there: Path, images: str) -> None:
    said = commands.call("bundle", str(there / "other"), "--to", str(there / "board.pyz"), f"--images={images}")
    refused(said, "--images must be a number from 1 or 'all'")


def test_a_place_that_does_not_exist_is_refused(commands: Commands, there: Path) -> None:
    refused(pack(commands, there, "other", to="nowhere/board.pyz"), "--to must name a file in a folder that exists")


def test_a_sample_has_each_class_in_proportion_and_is_the_same_each_time() -> None:
    numbers = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    images = ImageSet(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1), numbers)
    chosen = pick(images, 10, 3)
    assert torch.bincount(chosen.labels).tolist() == [6, 3, 1]
    places = chosen.images.flatten().tolist()
    assert places == sorted(set(places))
    assert places == pick(images, 10, 3).images.flatten().tolist()


@pytest.mark.parametrize("count", [1, 7, 99])
def test_a_sample_has_exactly_as_many_images_as_were_asked_for(count: int) -> None:
    numbers = torch.from_numpy(np.random.default_rng(0).integers(0, 7, 100))
    images = ImageSet(torch.zeros(100, 1, 1, 1, dtype=torch.uint8), numbers)
    assert len(pick(images, count, 7)) == count


def test_a_small_set_is_taken_whole() -> None:
    images = ImageSet(torch.zeros(5, 1, 1, 1, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    assert pick(images, 6, 2) is images
    assert pick(images, None, 2) is images


def test_names_tell_rows_apart_by_what_differs() -> None:
    row = {"variant": "prune", "target": "t", "data": "d", "model": "m", "seed": 0, "settings": [], "identity": "a"}
    assert labels([row, {**row, "target": "u"}, {**row, "data": "e"}]) == ["prune"] * 3
    assert labels([row, {**row, "seed": 1}]) == ["prune seed 0", "prune seed 1"]
    settings = [{**row, "settings": [f"method.sparsity=0.{at}"]} for at in (5, 9)]
    assert labels(settings) == ["prune method.sparsity=0.5", "prune method.sparsity=0.9"]
    assert labels([row, {**row, "model": "n", "seed": 1}]) == ["prune m", "prune n"]
    assert labels([row, {**row, "identity": "b"}]) == ["prune a", "prune b"]
