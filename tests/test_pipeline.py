"""The pipeline's stages as DVC calls them, on drawn images, and ``dvc.yaml`` as DVC reads it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient
from omegaconf import OmegaConf

from src.command import CONF
from src.composition import build_plan, composed
from src.pipeline import searched
from tests.commands import Commands
from tests.plans import TINY

PROJECT = Path(__file__).parent.parent
SMALL = [o for o in TINY if not o.startswith("data=")] + ["model.blocks=[[8]]", "model.dense=64"]


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    return Commands(tmp_path, capfd, monkeypatch)


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


def test_compose_writes_a_file_for_each_method_the_same_every_time_and_no_absolute_path(commands: Commands) -> None:
    methods = sorted(path.stem for path in (CONF / "method").glob("*.yaml") if path.stem not in ("baseline", "chain"))
    choose(*methods)
    assert commands.call("pipeline", "compose").code == 0
    first = composed_files()
    assert set(first) == {"baseline", "search", *methods}
    for text in first.values():
        assert str(PROJECT) not in text
        assert not [value for value in _words(yaml.safe_load(text)) if value.startswith(("/", "~"))]
    choose(*methods[:3])  # the others are no longer listed, and no longer there
    assert commands.call("pipeline", "compose").code == 0
    assert composed_files() == {method: first[method] for method in ["baseline", "search", *methods[:3]]}


def _words(config: object) -> list[str]:
    if isinstance(config, dict):
        return [word for value in config.values() for word in _words(value)]
    if isinstance(config, list):
        return [word for value in config for word in _words(value)]
    return [config] if isinstance(config, str) else []


def test_the_composed_file_is_what_the_command_in_it_would_run(commands: Commands) -> None:
    choose("deep_compression")
    commands.call("pipeline", "compose")
    written = OmegaConf.to_container(OmegaConf.load("pipeline/composed/deep_compression.yaml"))
    resolved, chosen = composed(written["overrides"])
    assert written["config"] == resolved
    plan, again = build_plan(written["config"], written["choices"]), build_plan(resolved, chosen)
    assert (plan.variant, plan.model_name, list(plan.steps)) == (again.variant, again.model_name, list(again.steps))
    splits = plan.data.value.load()
    assert [stage.identity for stage in plan.stages(splits)] == [stage.identity for stage in again.stages(splits)]


def test_a_chain_is_written_anew_when_a_method_in_it_changes_and_the_others_stay(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CONF, "conf")
    monkeypatch.setattr("src.command.CONF", Path("conf").absolute())
    choose("prune_magnitude", "prune_quantize", "deep_compression", "cluster", "quantize_int8")
    commands.call("pipeline", "compose")
    before = composed_files()
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
    config, _ = composed(searched(), "search")
    assert config["search"]["name"].startswith("pipeline_digits_budget_")
    assert config["tracking"]["tags"]["dvc.composed_md5"]
    choose("cluster", search="digit_budget", data="digits", overrides=[])
    said = commands.call("pipeline", "compose")
    assert (said.code, said.err.partition(".")[0]) == (2, "There is no search 'digit_budget'")


def test_a_method_that_does_not_exist_is_one_line_and_loses_nothing(commands: Commands) -> None:
    choose("cluster")
    commands.call("pipeline", "compose")
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
    assert (said.code, said.err.strip()) == (2, "params.yaml: methods must be a list, and is 'cluster'")


def test_two_runs_become_a_table_metrics_and_plots_and_lead_to_their_revision(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("cluster", overrides=[*SMALL, "tracking.system_metrics=false"])
    commands.call("pipeline", "compose")
    assert commands.call("pipeline", "table").err.startswith("pipeline/runs/baseline holds no results")
    for stage in (["data"], ["baseline"], ["compress", "cluster"], ["table"]):
        monkeypatch.setenv("DVC_STAGE", "@".join(stage))
        said = commands.call("pipeline", *stage)
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
    with Path("pipeline/accuracy_size.csv").open() as file:
        assert [line["method"] for line in csv.DictReader(file)] == ["baseline", "cluster"]
    with Path("pipeline/training.csv").open() as file:
        assert [(line["method"], line["epoch"]) for line in csv.DictReader(file)] == [
            ("baseline", "1"),
            ("cluster", "1"),
        ]

    runs = json.loads(Path("pipeline/runs.json").read_text())
    assert runs["cluster"]["identity"] == result["identity"]
    tags = MlflowClient("sqlite:///mlflow.db").get_run(runs["cluster"]["tracking_run"]).data.tags
    assert tags["dvc.stage"] == "compress@cluster"
    assert tags["dvc.composed_md5"] == hashlib.md5(Path("pipeline/composed/cluster.yaml").read_bytes()).hexdigest()
    assert tags["identity"] == result["identity"]


def test_a_copy_that_is_deleted_afterwards_leaves_its_stages_in_the_main_repository(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("quantize_int8")
    commands.call("pipeline", "compose")
    copy = commands.folder / ".dvc" / "tmp" / "exps" / "copy"
    shutil.copytree("pipeline", copy / "pipeline")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(commands.folder))
    assert "baseline trained" in commands.call("pipeline", "baseline").out
    assert not Path("artifacts").exists()
    monkeypatch.chdir(commands.folder)
    assert "baseline found again" in commands.call("pipeline", "baseline").out


def test_stages_that_were_pulled_are_found_again_where_the_store_is_empty(commands: Commands) -> None:
    choose("cluster")
    commands.call("pipeline", "compose")
    commands.call("pipeline", "baseline")
    shutil.rmtree("artifacts")
    said = commands.call("pipeline", "compress", "cluster")
    assert "baseline found again" in said.out
    assert "cluster compressed" in said.out
    shutil.rmtree("artifacts")
    assert "cluster found again" in commands.call("pipeline", "compress", "cluster").out


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
    outs = [out.def_path for stage in stages.values() for out in stage.outs]
    assert all(out.startswith("pipeline/") for out in outs)
    for name in ("composed/baseline.yaml", *(f"composed/{method}.yaml" for method in methods)):
        assert (CONF / "method" / Path(name).name).is_file()


def test_dvc_composes_once_and_keeps_what_was_composed_when_a_name_is_wrong(tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(PROJECT / name, tmp_path / name)
    for name in ("conf", "src"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    Repo.init(str(tmp_path), no_scm=True).close()

    def repro() -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        line = [sys.executable, "-m", "dvc", "repro", "compose"]
        return subprocess.run(line, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True)

    assert repro().returncode == 0
    assert "Stage 'compose' didn't change, skipping" in repro().stdout
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("- deep_compression\n", "- deep_compressio\n"))
    said = repro()
    assert said.returncode != 0
    assert "There is no method 'deep_compressio'. Did you mean deep_compression" in said.stderr
    assert (tmp_path / "pipeline" / "composed" / "deep_compression.yaml").is_file()
