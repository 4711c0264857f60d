"""The search command as a user sees it, on real digits and a network that trains in a second."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import optuna
import pytest

from src.contracts import InputError
from src.tracking import registry
from tests.commands import Commands, Said

FAST = [
    "training.epochs=3",
    "training.batch_size=128",
    "model.blocks=[[8],[16]]",
    "model.dense=32",
    "training.threads=1",
]
SMALL = ["search.trials=3", "search.finalists=1", "budget.accuracy_drop=0.5", "search.lengths=[1.0]"]


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


def search(commands: Commands, *overrides: str, tracking: str = "tracking=off") -> Said:
    where = [
        f"hydra.run.dir={commands.folder}/found",
        f"artifacts={commands.artifacts}",
        f"search.storage=sqlite:///{commands.folder}/search.db",
        tracking,
    ]
    return commands.call("search", "+search=digits_budget", *FAST, *SMALL, *where, *overrides)


def written(commands: Commands) -> dict:
    return json.loads((commands.folder / "found" / "search.json").read_text())


def test_a_search_ends_with_a_file_within_the_budget_and_the_command_that_makes_it_again(commands: Commands) -> None:
    said = search(commands, "budget.size_gzip_bytes=20000", "space.channels.choose.sparsity.hardest=0.4")
    assert said.code == 0, said.err
    assert "With every step at its hardest: size_gzip_bytes about" in said.out
    assert "trial 3/3  best within budget:" in said.out
    found = written(commands)
    (chosen,) = [trial for trial in found["trials"] if trial["number"] == found["chosen"]]
    assert chosen["within_budget"]
    assert chosen["values"]["size_gzip_bytes"] <= 20000
    kept = [trial["values"]["size_gzip_bytes"] for trial in found["trials"] if trial["within_budget"]]
    assert chosen["values"]["size_gzip_bytes"] == min(kept)
    rows = json.loads((commands.folder / "found" / "results.json").read_text())["rows"]
    (row,) = [row for row in rows if row["variant"] != "baseline"]
    assert (commands.folder / "found" / f"trial_{found['chosen']}" / row["artifact"]).stat().st_size == row[
        "size_bytes"
    ]
    assert row["accuracy_validation"] == chosen["values"]["accuracy_validation"]
    assert (commands.folder / "found" / "front.png").stat().st_size > 5000

    again = shlex.split(found["commands"][str(found["chosen"])])
    assert again[:3] == ["python", "-m", "src.run"]
    made, folder = commands.run(*(given for given in again[3:] if not given.startswith("artifacts=")))
    assert made.code == 0, made.err
    assert "exported and measured" not in made.out  # the very same stages
    remade = json.loads((folder / "results.json").read_text())["rows"][-1]
    assert remade["sha256"] == row["sha256"]


def test_the_same_command_goes_on_and_more_trials_are_added(commands: Commands) -> None:
    assert search(commands).code == 0
    before = written(commands)
    said = search(commands)
    assert said.code == 0
    assert "trial " not in said.out.partition("The front")[0].replace("trials for", "").replace("trial_", "")
    assert written(commands)["trials"] == before["trials"]
    said = search(commands, "search.trials=5")
    assert "trial 4/5" in said.out
    after = written(commands)["trials"]
    assert len(after) == 5
    assert after[:3] == before["trials"]


def test_two_workers_choose_what_one_chooses_and_finish_every_trial(commands: Commands) -> None:
    chance = "sampler@search.sampler=random"  # does not look at what others found
    said = search(commands, chance, "workers=2", "search.trials=4")
    assert said.code == 0, said.err
    assert "Workers failed" not in said.out, (commands.folder / "found" / "workers.log").read_text()
    shared = written(commands)["trials"]
    assert [trial["number"] for trial in shared] == [0, 1, 2, 3]
    other = Commands(commands.folder / "alone", commands.capture, commands.patch)
    other.folder.mkdir()
    other.artifacts = commands.artifacts
    assert search(other, chance, "search.trials=4").code == 0
    assert written(other)["trials"] == shared


def test_a_hopeless_budget_is_refused_before_any_training(commands: Commands) -> None:
    said = search(commands, "budget.size_bytes=100", "space.channels.choose.sparsity.hardest=0.4")
    assert said.code == 2
    said_last = said.err.splitlines()[-1]
    assert said_last.startswith("The budget cannot be kept: with every step at its hardest the space reaches")
    assert not list(commands.artifacts.rglob("stage.json"))


def test_a_chain_of_no_step_may_be_the_best_there_is(commands: Commands) -> None:
    nothing = "search.first=[{prune:false,channels:false,cluster:false,quantize:false}]"
    said = search(commands, nothing, "search.trials=1", "search.objectives=[accuracy_validation]")
    assert said.code == 0, said.err
    assert "Chosen: trial 0" in said.out
    assert "trial_0/baseline.onnxruntime.onnx" in said.out


def test_latency_on_a_target_that_another_runtime_stands_in_for_is_refused(commands: Commands) -> None:
    said = search(commands, "target=[tensorrt]", "search.objectives=[latency_ms_p50]")
    assert said.code == 2
    assert "whose times say nothing of it" in said.err


def test_a_hopeless_budget_is_refused_where_the_hardest_chain_cannot_be_made_either(commands: Commands) -> None:
    said = search(commands, "budget.size_bytes=100", "space.channels.choose.sparsity.hardest=0.9")
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith("The budget cannot be kept")


def test_another_number_of_threads_is_the_same_search(commands: Commands) -> None:
    assert search(commands, "search.trials=1").code == 0
    said = search(commands, "search.trials=2", "training.threads=2")
    assert said.code == 0, said.err
    assert len(written(commands)["trials"]) == 2


def test_where_nothing_keeps_the_budget_the_nearest_is_named(commands: Commands) -> None:
    said = search(commands, "budget.accuracy_drop=-0.9")
    assert said.code == 4
    assert "Nothing keeps the budget. The nearest is trial" in said.out
    assert "accuracy fell by" in said.out
    assert written(commands)["chosen"] is None


def test_where_every_trial_is_stopped_early_the_nearest_is_named_all_the_same(commands: Commands) -> None:
    said = search(commands, "budget.latency_ms=0.000001", "search.lengths=[0.5,1.0]", "space.prune.optional=false")
    assert said.code == 4, said.err
    assert "Nothing keeps the budget. The nearest is trial" in said.out
    assert "of at most 1e-06" in said.out
    trials = written(commands)["trials"]
    assert {trial["stopped"] is None for trial in trials} == {False}
    assert not [trial for trial in trials if "points more" in trial["stopped"]]
    assert (commands.folder / "found" / "front.png").exists()


@pytest.mark.parametrize("wrong", ["search.objectives=[size]", "workers=0"])
def test_bad_input_leaves_no_folder(commands: Commands, wrong: str) -> None:
    assert search(commands, wrong).code == 2
    assert not (commands.folder / "found").exists()


def test_a_study_begun_anew_in_the_same_folder_has_a_run_of_its_own(commands: Commands) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{commands.folder}/mlflow.db"
    for seed in (0, 1):
        said = search(commands, f"seed={seed}", "search.trials=1", tracking=f"tracking.uri={uri}")
        assert said.code == 0, said.err
        (commands.folder / "search.db").unlink()
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "digits_budget"]
    parents = [
        r.data.tags["mlflow.parentRunId"]
        for r in client.search_runs(experiment.experiment_id)
        if "trial" in r.data.tags
    ]
    assert len(parents) == len(set(parents)) == 2


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(commands: Commands) -> None:
    beyond = ["space.cluster.choose.clusters.mildest=2", "space.cluster.choose.clusters.hardest=1"]
    required = ["space.cluster.optional=false", "~space.channels", "~space.quantize"]
    said = search(commands, *beyond, *required, "search.trials=6", "budget.accuracy_drop=2")
    trials = written(commands)["trials"]
    assert len(trials) == 6
    failed = [trial for trial in trials if trial["failed"]]
    assert failed
    assert all("clusters" in trial["failed"] for trial in failed)
    assert f"Failed: trial {failed[0]['number']}: " in said.out
    assert said.code == (0 if len(failed) < 6 else 4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.objectives=[size]"], "search.objectives: there is no column size; there are accuracy_validation"),
        (["search.objectives=[]"], "search.objectives is empty"),
        (["search.trials=0"], "search.trials must be a whole number from 1, and is 0"),
        (["workers=0"], "workers must be a whole number from 1"),
        (["search.sampler.startup=0"], "search.sampler: startup and most must be at least 1, and are 0 and 100"),
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
def test_bad_input_gets_one_line(commands: Commands, overrides: list[str], message: str) -> None:
    said = search(commands, *overrides)
    assert said.code == 2, said.out
    assert message in said.err.splitlines()[-1]
    assert "Traceback" not in said.err
    assert not list(commands.artifacts.rglob("stage.json"))


def test_without_a_name_the_searches_are_listed(commands: Commands) -> None:
    said = commands.call("search")
    assert said.code == 2
    assert said.err == "Which search? +search=NAME; there are: cifar_budget, digits_budget, mnist_budget\n"


def test_the_tracking_store_has_every_trial_and_the_chosen_model_is_registered(commands: Commands) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{commands.folder}/mlflow.db"
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
    assert len(folders) == len(set(folders))  # what is found again goes on in its run
    assert sorted(run.data.tags["trial"] for run in runs if "trial" in run.data.tags) == ["0", "1", "2", "3"]


def tagged(**tags: str) -> dict[str, str]:
    common = {"target": "onnxruntime", "machine": "m", "objective": "size_gzip_bytes", "budget": "{}"}
    return {**common, "size_bytes": "100", "size_gzip_bytes": "50", "latency_ms_p50": "1.0", **tags}


@pytest.mark.parametrize(
    ("alias", "new", "moves"),
    [
        ("smallest", {"size_bytes": "99"}, True),
        ("smallest", {"size_gzip_bytes": "49"}, True),
        ("smallest", {}, False),
        ("smallest", {"size_bytes": "9", "target": "openvino"}, False),
        ("fastest", {"latency_ms_p50": "0.9"}, True),
        ("fastest", {"latency_ms_p50": "0.99"}, False),
        ("fastest", {"latency_ms_p50": "0.5", "machine": "other"}, False),
        ("best_within_budget", {"size_gzip_bytes": "49"}, True),
        ("best_within_budget", {"size_gzip_bytes": "49", "budget": "{1}"}, False),
        ("best_within_budget", {"size_gzip_bytes": "51"}, False),
        ("best_within_budget", {"objective": "energy_uj_estimate"}, False),
    ],
)
def test_an_alias_moves_only_by_its_rule(alias: str, new: dict[str, str], moves: bool) -> None:
    why = registry._not_better(alias, tagged(**new), tagged())
    assert (why is None) is moves


def test_an_alias_that_moves_says_so_and_one_that_stays_exits_with_4(commands: Commands) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{commands.folder}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    client.create_registered_model("m")
    for tags in (tagged(within_budget="true"), tagged(size_bytes="90", within_budget="true"), tagged(size_bytes="1")):
        client.create_model_version("m", source="file:///nowhere", tags=tags)
    said = commands.call("promote", "m", "1", "smallest", "--uri", uri)
    assert (said.code, said.out) == (0, "smallest moved to version 1.\n")
    said = commands.call("promote", "m", "2", "smallest", "--uri", uri)
    assert (said.code, said.out) == (0, "smallest moved to version 2 from 1.\n")
    said = commands.call("promote", "m", "1", "smallest", "--uri", uri)
    assert said.code == 4
    assert "smallest stays at version 2: it has 90 bytes, the other 100" in said.out
    said = commands.call("promote", "m", "3", "smallest", "--uri", uri)
    assert said.code == 4
    assert "misses the budget" in said.out
    said = commands.call("promote", "m", "9", "smallest", "--uri", uri)
    assert said.code == 2
    assert "has versions 1, 2, 3 of 'm', and not 9" in said.err


def test_a_model_whose_objective_was_not_registered_stays_where_it_is() -> None:
    asked = {"objective": "energy_uj_estimate"}
    why = registry._not_better("best_within_budget", tagged(**asked, energy_uj_estimate="1.5"), tagged(**asked))
    assert why == "one of them has no energy_uj_estimate"
    energies = (tagged(**asked, energy_uj_estimate=energy) for energy in ("1.5", "2.5"))
    assert registry._not_better("best_within_budget", *energies) is None


def test_a_name_that_no_model_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="no model can be called a'b"):
        registry.promote("sqlite:///none.db", "a'b", "1", "smallest")


def test_an_unknown_alias_is_refused() -> None:
    with pytest.raises(InputError, match="there is no alias best"):
        registry.promote("sqlite:///none.db", "m", "1", "best")


def test_a_study_opens_with_the_library_alone(commands: Commands) -> None:
    assert search(commands).code == 0
    study = optuna.load_study(study_name="digits_budget", storage=f"sqlite:///{commands.folder}/search.db")
    assert len(study.trials) == 3
    assert len(study.best_trials) >= 1
