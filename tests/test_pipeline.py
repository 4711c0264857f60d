"""The pipeline's stages as DVC calls them, on drawn images, and ``dvc.yaml`` as DVC reads it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.exceptions import ReproductionError
from dvc.repo import Repo
from omegaconf import OmegaConf

from src.command import dvc, dvc_runs
from src.command.composition import build_plan, composed
from src.command.dvc_runs import run, search_overrides
from src.command.exits import CONF, DONE
from tests.commands import Commands
from tests.listing import listing
from tests.plans import TINY

PROJECT = Path(__file__).parent.parent
SMALL = [o for o in TINY if not o.startswith("data=")]
SMALL += ["model.blocks=[[8]]", "model.dense=64", "timing.seconds=0.02", "timing.rounds=2", "timing.largest_batch=2"]
DVC_SETS = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in DVC_SETS:
        monkeypatch.delenv(name, raising=False)
    return Commands(tmp_path, capfd, monkeypatch)


METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml") if path.stem not in ("baseline", "chain"))


@pytest.fixture(scope="module")
def every_method(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the composed file of every method."""
    folder = tmp_path_factory.mktemp("composed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        choose(*METHODS)
        dvc.compose()
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the baseline and ``cluster`` were run and tracked, as by ``dvc repro``."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in DVC_SETS:
            patch.delenv(name, raising=False)
        choose("cluster", overrides=[*SMALL, "tracking=jsonl"])
        dvc.compose()
        for stage, variant in (("baseline", "baseline"), ("compress@cluster", "cluster")):
            patch.setenv("DVC_STAGE", stage)
            assert run(variant) == DONE
    return folder


@pytest.fixture
def there(made: Path, commands: Commands) -> Path:
    """A copy of the folder that a test may spoil; the current folder."""
    shutil.copytree(made, commands.folder, dirs_exist_ok=True)
    return commands.folder


def choose(*methods: str, **others: object) -> None:
    """Write ``params.yaml`` for tiny data."""
    choices = {"data": "shapes", "model": "small_cnn", "training": "default", "target": ["onnxruntime"], "seed": 0}
    choices["search"] = None
    overrides = [*SMALL, "tracking=off"]
    Path("params.yaml").write_text(
        yaml.safe_dump({**choices, "methods": list(methods), "overrides": overrides, **others})
    )


def composed_files() -> dict[str, str]:
    return {path.stem: path.read_text() for path in Path("pipeline/composed").iterdir()}


def test_compose_writes_a_file_for_each_method_the_same_every_time_and_no_absolute_path(
    commands: Commands, every_method: Path
) -> None:
    shutil.copytree(every_method, commands.folder, dirs_exist_ok=True)
    first = composed_files()
    assert set(first) == {"baseline", "search", *METHODS}
    for text in first.values():
        assert str(PROJECT) not in text
        assert not [value for value in _words(yaml.safe_load(text)) if value.startswith(("/", "~"))]
    choose(*METHODS[:3])  # the others are no longer listed, and no longer there
    assert commands.call("pipeline", "compose").code == 0
    assert composed_files() == {method: first[method] for method in ["baseline", "search", *METHODS[:3]]}


def _words(config: object) -> list[str]:
    if isinstance(config, dict):
        return [word for value in config.values() for word in _words(value)]
    if isinstance(config, list):
        return [word for value in config for word in _words(value)]
    return [config] if isinstance(config, str) else []


def test_the_composed_file_is_what_the_command_in_it_would_run(every_method: Path) -> None:
    written: Any = OmegaConf.to_container(OmegaConf.load(every_method / "pipeline/composed/deep_compression.yaml"))
    resolved, chosen = composed(written["overrides"])
    assert written["config"] == resolved
    plan, again = build_plan(written["config"], written["choices"]), build_plan(resolved, chosen)
    assert (plan.variant, plan.model_name, list(plan.steps)) == (again.variant, again.model_name, list(again.steps))
    splits = plan.data.value.load()
    assert [stage.identity for stage in plan.stages(splits)] == [stage.identity for stage in again.stages(splits)]


def test_a_chain_is_written_anew_when_a_method_in_it_changes_and_the_others_stay(
    commands: Commands, every_method: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(every_method, commands.folder, dirs_exist_ok=True)
    before = composed_files()
    shutil.copytree(CONF, "conf")
    monkeypatch.setattr("src.command.composition.CONF", Path("conf").absolute())
    choose("prune_magnitude", "prune_quantize", "deep_compression", "cluster", "quantize_int8")
    path = Path("conf/method/prune_magnitude.yaml")
    path.write_text(path.read_text().replace("updates: 40", "updates: 30"))
    commands.call("pipeline", "compose")
    changed = {method for method, text in composed_files().items() if text != before[method]}
    assert changed == {"prune_magnitude", "prune_quantize", "deep_compression"}


def test_a_search_has_a_composed_file_of_its_own(commands: Commands) -> None:
    choose("cluster", search="digits_budget", data="digits", overrides=["training.epochs=2"])
    assert commands.call("pipeline", "compose").code == 0
    written = yaml.safe_load(composed_files()["search"])
    assert written["overrides"][:2] == ["+search=digits_budget", "data=digits"]
    assert written["overrides"][-2:] == ["seed=0", "training.epochs=2"]
    assert list(written["config"]["space"]) == ["channels", "prune", "cluster", "quantize"]
    config, _ = composed(search_overrides(), "search")
    assert config["search"]["name"].startswith("pipeline_digits_budget_")
    assert config["tracking"]["tags"]["dvc.composed_md5"]
    choose("cluster", search="digit_budget", data="digits", overrides=[])
    said = commands.call("pipeline", "compose")
    assert (said.code, said.err.partition(".")[0]) == (2, "There is no search 'digit_budget'")


def test_a_method_that_does_not_exist_is_one_line_and_loses_nothing(commands: Commands, every_method: Path) -> None:
    shutil.copytree(every_method, commands.folder, dirs_exist_ok=True)
    before = composed_files()
    choose("cluster", "prune_magnitud")
    said = commands.call("pipeline", "compose")
    assert said.code == 2
    assert said.err.startswith("There is no method 'prune_magnitud'. Did you mean prune_magnitude")
    assert len(said.err.splitlines()) == 1
    assert composed_files() == before
    said = commands.call("pipeline", "compress", "prune_magnitud")
    assert said.code == 2
    assert said.err.startswith("There is no pipeline/composed/prune_magnitud.yaml: list the method in params.yaml")


def test_wrong_choices_are_named(commands: Commands) -> None:
    choose("cluster", method="cluster")
    said = commands.call("pipeline", "compose")
    assert (said.code, said.err.partition(";")[0]) == (2, "params.yaml: 'method' is no choice")
    choose(methods="cluster")
    said = commands.call("pipeline", "compose")
    assert (said.code, said.err.strip()) == (2, "params.yaml: methods must be a list of words, and is 'cluster'")


def test_two_runs_become_a_table_metrics_and_plots_and_lead_to_their_revision(commands: Commands, there: Path) -> None:
    for stage in ("data", "table"):
        said = commands.call("pipeline", stage)
        assert said.code == 0, said.err
    assert json.loads(Path("pipeline/data.json").read_text())["images"] == {"train": 270, "validation": 30, "test": 60}

    result = json.loads(Path("pipeline/runs/cluster/results.json").read_text())
    metrics = json.loads(Path("pipeline/metrics.json").read_text())
    assert list(metrics) == ["baseline", "cluster"]
    for row in result["rows"]:
        measured = metrics[row["variant"]]["onnxruntime"]
        again = {"latency_ms_p50"} if row["variant"] == "baseline" else set()  # beside each method it is timed anew
        assert {c: measured[c] for c in measured if c not in again} == {c: row[c] for c in measured if c not in again}
        assert {"accuracy", "size_bytes", "size_gzip_bytes", "macs"} <= set(measured)
    table = Path("pipeline/table.md").read_text()
    assert all(line in table for line in ("# small_cnn on shapes, seed 0", "\nbaseline ", "\ncluster "))
    assert all(line in said.out for line in table.split("```")[1].strip().splitlines())
    with Path("pipeline/accuracy_size.csv").open() as file:
        assert [line["method"] for line in csv.DictReader(file)] == ["baseline", "cluster"]
    with Path("pipeline/training.csv").open() as file:
        assert [(line["method"], line["epoch"]) for line in csv.DictReader(file)] == [
            ("baseline", "1"),
            ("cluster", "1"),
        ]

    runs = json.loads(Path("pipeline/runs.json").read_text())
    assert runs["cluster"]["identity"] == result["identity"]
    (started,) = (e for e in events("run_started") if e["run"] == runs["cluster"]["tracking_run"])
    assert started["tags"]["dvc.stage"] == "compress@cluster"
    composed_md5 = hashlib.md5(Path("pipeline/composed/cluster.yaml").read_bytes()).hexdigest()
    assert started["tags"]["dvc.composed_md5"] == composed_md5
    logged = [e["row"] for e in events("row") if e["run"] == started["run"]]
    assert logged[-1]["identity"] == result["identity"]


def events(kind: str) -> list[dict[str, Any]]:
    """The events of one kind in the tracking store."""
    lines = (json.loads(line) for line in Path("tracking.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def test_a_table_without_runs_says_what_makes_them(commands: Commands) -> None:
    choose("cluster")
    assert commands.call("pipeline", "table").err.startswith("pipeline/runs/baseline holds no results")


def test_a_copy_that_is_deleted_afterwards_leaves_its_stages_in_the_main_repository(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("quantize_int8", overrides=[*SMALL, "tracking=jsonl"])
    commands.call("pipeline", "compose")
    copy = commands.folder / ".dvc" / "tmp" / "exps" / "copy"
    shutil.copytree("pipeline", copy / "pipeline")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(commands.folder))
    assert "baseline trained" in commands.call("pipeline", "baseline").out
    assert not Path("artifacts").exists()
    assert not Path("tracking.jsonl").exists()
    monkeypatch.chdir(commands.folder)
    assert len(events("run_started")) == 1
    assert "baseline found again" in commands.call("pipeline", "baseline").out


@pytest.mark.parametrize(
    ("address", "moved"),
    [
        ("sqlite:///mlflow.db", "sqlite:////home/me/project/mlflow.db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("tracking.jsonl", "/home/me/project/tracking.jsonl"),
        ("http://tracking.example:5000", "http://tracking.example:5000"),
        (None, None),
    ],
)
def test_in_a_copy_the_tracking_store_is_that_of_the_main_repository(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, address: str | None, moved: str | None
) -> None:
    config = {"artifacts": "artifacts", "data": {}, "tracking": {"uri": address}}
    dvc.COMPOSED.mkdir(parents=True)
    dvc.composed_file("m").write_text(yaml.safe_dump({"overrides": [], "choices": {}, "config": config}))
    monkeypatch.setenv("DVC_ROOT", "/home/me/project")
    read = dvc.Composed.read("m").config
    assert read["tracking"]["uri"] == moved
    assert read["artifacts"] == "/home/me/project/artifacts"


def test_stages_that_were_pulled_are_found_again_if_the_store_is_empty(commands: Commands, there: Path) -> None:
    shutil.rmtree("artifacts")
    shutil.rmtree("pipeline/runs/cluster")
    said = commands.call("pipeline", "compress", "cluster")
    assert "baseline found again" in said.out
    assert "cluster compressed" in said.out
    shutil.rmtree("artifacts")
    assert "cluster found again" in commands.call("pipeline", "compress", "cluster").out


def test_a_stage_beside_the_same_stage_at_work_is_refused_and_touches_nothing(commands: Commands, there: Path) -> None:
    with dvc_runs.owning_stage(dvc.RUNS / "cluster"):
        before = listing(there)
        said = commands.call("pipeline", "compress", "cluster")
        assert said.code == 2
        assert said.err == "pipeline/runs/cluster belongs to another command that is still at work\n"
        assert listing(there) == before
        shutil.rmtree("pipeline/runs/cluster")  # as DVC does before it runs the stage
        assert commands.call("pipeline", "compress", "cluster").code == 2
    assert commands.call("pipeline", "compress", "cluster").code == 0


def test_dvc_reads_a_stage_for_each_method_and_each_depends_on_its_own_composed_file(tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(PROJECT / name, tmp_path / name)
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
        assert repo.index.graph.number_of_nodes() == len(stages)
    methods = yaml.safe_load((PROJECT / "params.yaml").read_text())["methods"]
    assert [name for name in stages if name.startswith("compress@")] == [f"compress@{method}" for method in methods]
    assert set(stages) >= {"compose", "data", "baseline", "table"}
    for method in methods:
        stage = stages[f"compress@{method}"]
        assert stage.cmd == f"python -m src.pipeline compress {method}"
        assert {dep.def_path for dep in stage.deps} >= {f"pipeline/composed/{method}.yaml", "src"}
    deps = {dep.def_path for stage in stages.values() for dep in stage.deps}
    assert all((PROJECT / dep).exists() for dep in deps if dep and dep.startswith(("conf", "src")))
    outs = [out.def_path for stage in stages.values() for out in stage.outs]
    assert all(out.startswith("pipeline/") for out in outs)
    for name in ("composed/baseline.yaml", *(f"composed/{method}.yaml" for method in methods)):
        assert (CONF / "method" / Path(name).name).is_file()


def test_every_stage_depends_on_the_code_that_its_command_imports() -> None:
    for name, stage in yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"].items():
        rooms = {"src/command", "src/contracts", "src/files", "src/pipeline.py"}
        assert "src" in stage["deps"] or rooms <= set(stage["deps"]), name


def test_dvc_composes_once_and_keeps_what_was_composed_if_a_name_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(PROJECT / name, tmp_path / name)
    for name in ("conf", "src"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    Repo.init(str(tmp_path), no_scm=True).close()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def reproduced() -> list[str]:
        """The stages that DVC ran."""
        with Repo(str(tmp_path)) as repo:
            return [stage.name for stage in repo.reproduce("compose")]

    assert reproduced() == ["compose"]
    assert reproduced() == []
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("- deep_compression\n", "- deep_compressio\n"))
    capfd.readouterr()
    with pytest.raises(ReproductionError):
        reproduced()
    assert "There is no method 'deep_compressio'. Did you mean deep_compression" in capfd.readouterr().err
    assert (tmp_path / "pipeline" / "composed" / "deep_compression.yaml").is_file()
