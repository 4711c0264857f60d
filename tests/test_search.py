"""The search command as a user sees it, on real digits and a network that trains in a second."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from src.command.composition import composed
from src.command.search_job import SearchJob
from tests.commands import Commands, Said
from tests.conftest import MakeStore

FAST = [
    "training.epochs=3",
    "training.batch_size=128",
    "model.blocks=[[8],[16]]",
    "model.dense=32",
    "training.threads=1",
    "timing.seconds=0.02",
    "timing.rounds=2",
    "timing.largest_batch=2",
]
# The first three trials of this space and seed are the same in every test, so that their stages are made once.
SMALL = [
    "search.trials=3",
    "search.finalists=1",
    "budget.accuracy_drop=0.5",
    "search.lengths=[1.0]",
    "space.channels.choose.sparsity.hardest=0.4",
]
TWO_STEPS = ["~space.prune", "~space.cluster"]  # fewer chains to measure before a budget is refused
BUDGET = "budget.size_gzip_bytes=20000"


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts that the tests share."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def commands(
    tmp_path: Path, stages: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Commands:
    made = Commands(tmp_path, capfd, monkeypatch)
    made.artifacts = stages
    return made


@pytest.fixture
def untrained(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands without any stage, so that a test sees whether one is made."""
    return Commands(tmp_path, capfd, monkeypatch)


@dataclass
class Finished:
    """A search that is over; tests read it, or copy its folder to continue it.

    Attributes:
        folder: Folder of the search's folder and its database.
        said: What the command printed; None until the first test asks for it.
    """

    folder: Path
    said: Said | None = None

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.folder / "found" / "search.json").read_text())
        return record


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def finished(
    finished_once: Finished, stages: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Finished:
    """The search of three trials that the tests of this module share."""
    if finished_once.said is None:
        commands = Commands(finished_once.folder, capfd, monkeypatch)
        commands.artifacts = stages
        finished_once.said = search(commands, BUDGET)
    return finished_once


def search(commands: Commands, *overrides: str, tracking: str = "tracking=off") -> Said:
    where = [
        f"hydra.run.dir={commands.folder}/found",
        f"artifacts={commands.artifacts}",
        f"search.storage=sqlite:///{commands.folder}/search.db",
        tracking,
    ]
    return commands.call("search", "+search=digits_budget", *FAST, *SMALL, *where, *overrides)


def written(commands: Commands) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((commands.folder / "found" / "search.json").read_text())
    return record


def test_a_search_ends_with_a_file_within_the_budget_and_the_command_that_makes_it_again(
    finished: Finished, commands: Commands
) -> None:
    said = finished.said
    assert said is not None
    assert said.code == 0, said.err
    assert "With every step at its hardest: size_gzip_bytes about" in said.out
    assert "trial 3/3  best within budget:" in said.out
    found = finished.record
    (chosen,) = [trial for trial in found["trials"] if trial["number"] == found["chosen"]]
    assert chosen["within_budget"]
    assert chosen["values"]["size_gzip_bytes"] <= 20000
    kept = [trial["values"]["size_gzip_bytes"] for trial in found["trials"] if trial["within_budget"]]
    assert chosen["values"]["size_gzip_bytes"] == min(kept)
    rows = json.loads((finished.folder / "found" / "results.json").read_text())["rows"]
    (row,) = [row for row in rows if row["variant"] != "baseline"]
    file = finished.folder / "found" / f"trial_{found['chosen']}" / row["artifact"]
    assert file.stat().st_size == row["size_bytes"]
    assert row["accuracy_validation"] == chosen["values"]["accuracy_validation"]
    assert (finished.folder / "found" / "front.png").stat().st_size > 5000

    again = shlex.split(found["commands"][str(found["chosen"])])
    assert again[:3] == ["python", "-m", "src.run"]
    made, folder = commands.run(*(given for given in again[3:] if not given.startswith("artifacts=")))
    assert made.code == 0, made.err
    assert "exported and measured" not in made.out  # the very same stages
    remade = json.loads((folder / "results.json").read_text())["rows"][-1]
    assert remade["sha256"] == row["sha256"]


@pytest.mark.slow
def test_the_same_command_continues_and_more_trials_are_added(finished: Finished, commands: Commands) -> None:
    shutil.copytree(finished.folder, commands.folder, dirs_exist_ok=True)
    before = finished.record
    said = search(commands, BUDGET)
    assert said.code == 0
    assert "trial " not in said.out.partition("The front")[0].replace("trials for", "").replace("trial_", "")
    assert written(commands)["trials"] == before["trials"]
    said = search(commands, BUDGET, "search.trials=5")
    assert said.code == 0, said.err
    assert "trial 4/5" in said.out
    after = written(commands)["trials"]
    assert len(after) == 5
    assert after[:3] == before["trials"]


@pytest.mark.slow
def test_two_workers_choose_what_one_chooses_and_finish_every_trial(finished: Finished, commands: Commands) -> None:
    said = search(commands, BUDGET, "workers=2")
    assert said.code == 0, said.err
    assert "Workers failed" not in said.out, (commands.folder / "found" / "workers.log").read_text()
    shared = written(commands)["trials"]
    assert [trial["number"] for trial in shared] == [0, 1, 2]
    assert shared == finished.record["trials"]


@pytest.mark.slow
def test_if_workers_fail_the_search_finishes_alone(commands: Commands) -> None:
    commands.patch.setattr("src.command.searching.run_workers", lambda *_, **__: False)
    said = search(commands, "workers=2", "search.trials=1")
    assert said.code == 0, said.err
    log = commands.folder / "found" / "workers.log"
    assert f"Workers failed (see {log}); this process continues alone." in said.out
    assert len(written(commands)["trials"]) == 1


@pytest.mark.slow
def test_an_error_of_a_worker_ends_the_command_that_started_it(commands: Commands) -> None:
    alone = ["hydra.mode=MULTIRUN", "worker=0", f"hydra.sweep.dir={commands.folder}/workers", "hydra/launcher=basic"]
    said = search(commands, "search.storage=postgresql://127.0.0.1:1/none", *alone)
    assert said.code == 2
    assert "does not answer" in said.err


@pytest.mark.slow
def test_a_hopeless_budget_is_refused_before_any_training(untrained: Commands) -> None:
    said = search(untrained, "budget.size_bytes=100", *TWO_STEPS)
    assert said.code == 2
    last = said.err.splitlines()[-1]
    assert last.startswith("The budget cannot be kept: with every step at its hardest the space reaches")
    assert not list(untrained.artifacts.rglob("stage.json"))


@pytest.mark.slow
def test_a_hopeless_budget_is_refused_if_the_hardest_chain_cannot_be_made_either(untrained: Commands) -> None:
    said = search(untrained, "budget.size_bytes=100", "space.channels.choose.sparsity.hardest=0.9", *TWO_STEPS)
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith("The budget cannot be kept")


@pytest.mark.slow
def test_a_chain_of_no_step_may_be_the_best_there_is(commands: Commands) -> None:
    nothing = "search.first=[{prune:false,channels:false,cluster:false,quantize:false}]"
    said = search(commands, nothing, "search.trials=1", "search.objectives=[accuracy_validation]")
    assert said.code == 0, said.err
    assert "Chosen: trial 0" in said.out
    assert "trial_0/baseline.onnxruntime.onnx" in said.out


def test_latency_on_a_target_that_another_runtime_stands_in_for_is_refused(untrained: Commands) -> None:
    said = search(untrained, "target=[tensorrt]", "search.objectives=[latency_ms_p50]")
    assert said.code == 2
    assert "whose times say nothing of it" in said.err


@pytest.mark.slow
def test_if_nothing_keeps_the_budget_the_nearest_is_named(commands: Commands) -> None:
    said = search(commands, "budget.accuracy_drop=-0.9")
    assert said.code == 4
    assert "Nothing keeps the budget. The nearest is trial" in said.out
    assert "accuracy fell by" in said.out
    assert written(commands)["chosen"] is None


@pytest.mark.slow
def test_if_every_trial_is_stopped_early_the_nearest_is_named_all_the_same(commands: Commands) -> None:
    early = ["search.lengths=[0.5,1.0]", "space.prune.optional=false", "search.trials=2"]
    said = search(commands, "budget.latency_ms=0.000001", *early)
    assert said.code == 4, said.err
    assert "Nothing keeps the budget. The nearest is trial" in said.out
    assert "of at most 1e-06" in said.out
    trials = written(commands)["trials"]
    assert {trial["stopped"] is None for trial in trials} == {False}
    assert not [trial for trial in trials if "points more" in trial["stopped"]]
    assert (commands.folder / "found" / "front.png").exists()


@pytest.mark.slow
def test_a_study_begun_anew_in_the_same_folder_has_a_run_of_its_own(commands: Commands) -> None:
    events = commands.folder / "tracking.jsonl"
    for _ in range(2):
        said = search(commands, "search.trials=1", f"tracking.uri={events}", tracking="tracking=jsonl")
        assert said.code == 0, said.err
        (commands.folder / "search.db").unlink()
    logged = [json.loads(line) for line in events.read_text().splitlines()]
    parents = [event["survey"] for event in logged if event["event"] == "trial"]
    assert len(parents) == len(set(parents)) == 2


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_continues(commands: Commands) -> None:
    alone = "channels:false,quantize:false,prune.fine_tune.epochs:2"
    zeros = f"{{{alone},prune:true,cluster:true,cluster.clusters:1}}"  # zeros take the only value
    nothing = f"{{{alone},prune:false,cluster:false}}"
    fewest = "space.cluster.choose.clusters.hardest=1"
    said = search(commands, f"search.first=[{zeros},{nothing}]", fewest, "search.trials=2")
    assert said.code == 0, said.err
    fails, works = written(commands)["trials"]
    assert "clusters" in fails["failed"]
    assert works["failed"] is None
    assert f"Failed: trial 0: {fails['failed']}" in said.out
    assert "Chosen: trial 1" in said.out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["search.objectives=[size]"],
            "search.objectives: there is no column size; there are bits_per_weight, accuracy_validation",
        ),
        (["search.objectives=[]"], "search.objectives is empty"),
        (["search.trials=0"], "search.trials must be a whole number from 1, and is 0"),
        (["workers=0"], "workers must be a whole number from 1"),
        (["search.sampler.startup=0"], "search.sampler.startup and most must be at least 1, and are 0 and 100"),
        (["search.sampler.most=many"], "search.sampler.most must be a whole number"),
        (["search.name=.."], "search.name must be of letters"),
        (["search.lengths=[true]"], "search.lengths must ascend to 1"),
        (["search.sensitivity_drops=[a]"], "search.sensitivity_drops must be numbers"),
        (["search.lengths=[0.5]"], "search.lengths must ascend to 1"),
        (["search.lengths=0.5"], "search.lengths must be a list, and is 0.5"),
        (["search.lengths=[a,1]"], "search.lengths must ascend to 1"),
        (["search.first=[5]"], "search.first must be a list of points"),
        (["search.first=[{prune.sparsity:much}]"], "search.first: prune.sparsity must be a number, and is 'much'"),
        (["search.storage=null"], "search.storage must be a word, and is None"),
        (["search.name=a/b"], "search.name must be of letters"),
        (["space.prune=null"], "space.prune is None, which is no step"),
        (["search.target=board"], "search.target must be one of onnxruntime"),
        (["~space.channels", "~space.prune", "~space.cluster", "~space.quantize"], "space is empty"),
        (["search.first=[{prune.sparse:0.5}]"], "search.first: there is no dimension prune.sparse"),
        (
            ["search.storage=postgresql://127.0.0.1:1/none"],
            "search.storage=postgresql://127.0.0.1:1/none does not answer",
        ),
        (["search.sensitivity=none.json"], "none.json"),
        (["space.prune.method=prune_nothing"], "There is no method 'prune_nothing'"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_no_folder(untrained: Commands, overrides: list[str], message: str) -> None:
    said = search(untrained, *overrides)
    assert said.code == 2, said.out
    assert message in said.err.splitlines()[-1]
    assert "Traceback" not in said.err
    assert not list(untrained.artifacts.rglob("stage.json"))
    assert not (untrained.folder / "found").exists()


def test_without_a_name_the_searches_are_listed(commands: Commands) -> None:
    said = commands.call("search")
    assert said.code == 2
    assert said.err == "Which search? +search=NAME; there are: cifar_budget, digits_budget, mnist_budget\n"


@pytest.mark.slow
def test_the_tracking_store_has_every_trial_and_the_chosen_model_is_registered(
    commands: Commands,
    mlflow_store: MakeStore,
) -> None:
    from mlflow import MlflowClient

    uri = mlflow_store(commands.folder)
    said = search(commands, "++tracking.tags={stage: mine}", tracking=f"tracking.uri={uri}")
    assert said.code == 0, said.err
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "digits_budget"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert (parent.info.status, parent.data.tags["stage"]) == ("FINISHED", "mine")
    assert "search.json" in [file.path for file in client.list_artifacts(parent.info.run_id)]
    children = {run.data.tags["trial"]: run for run in runs if "trial" in run.data.tags}
    found = written(commands)
    assert sorted(children) == ["0", "1", "2"]
    for trial in found["trials"]:
        assert children[str(trial["number"])].data.metrics["size_bytes"] == trial["values"]["size_bytes"]
    holder = client.get_model_version_by_alias("digits-small_cnn", "best_within_budget")
    assert holder.tags["objective"] == "size_gzip_bytes"
    import mlflow

    loaded = mlflow.pyfunc.load_model(f"{holder.source}")
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert "| onnxruntime |" in client.get_model_version("digits-small_cnn", holder.version).description

    interrupted = children["1"].info.run_id  # as if the command had died while it was written
    client.update_run(interrupted, status="RUNNING")
    again = search(commands, "search.trials=4", tracking=f"tracking.uri={uri}")
    assert again.code == 0, again.err
    runs = client.search_runs([experiment.experiment_id])
    assert interrupted not in [run.info.run_id for run in runs]
    assert all(run.info.status == "FINISHED" for run in runs)
    folders = [run.data.tags["folder"] for run in runs if "folder" in run.data.tags]
    assert len(folders) == len(set(folders))  # a run that is found again continues
    assert sorted(run.data.tags["trial"] for run in runs if "trial" in run.data.tags) == ["0", "1", "2", "3"]


def test_a_study_opens_with_the_library_alone(finished: Finished) -> None:
    study = optuna.load_study(study_name="digits_budget", storage=f"sqlite:///{finished.folder}/search.db")
    assert len(study.trials) == 3
    assert len(study.best_trials) >= 1


FROZEN: dict[str, Any] = json.loads((Path(__file__).parent / "study" / "definition_of_d975084.json").read_text())


def definition(*overrides: str, checksum: str = FROZEN["data"]["checksum"]) -> dict[str, Any]:
    """What the database keeps of a study, as JSON holds it."""
    config, choices = composed(["+search=digits_budget", "seed=3", *overrides], "search")
    stored = SearchJob(config, choices, [], Path("outputs"), "").study_definition(checksum)
    decoded: dict[str, Any] = json.loads(json.dumps(stored))
    return decoded


def test_a_study_that_an_earlier_version_began_continues() -> None:
    assert definition() == FROZEN  # open_study refuses another


def test_another_number_of_threads_is_the_same_search() -> None:
    machine = ["training.threads=7", "training.device=cuda", "data.root=elsewhere", "search.trials=99", "workers=4"]
    assert definition(*machine) == FROZEN


def test_other_data_or_another_budget_is_another_search() -> None:
    assert definition(checksum="other")["data"] != FROZEN["data"]
    assert definition("budget.size_bytes=1000")["budget"] != FROZEN["budget"]
    assert definition("search.objectives=[macs]")["search"] != FROZEN["search"]
