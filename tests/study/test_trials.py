"""One trial: its lengths of fine-tuning, and what it leaves in the study."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from src.experiment.making import RECIPE, prepare
from src.stages.store import StageStore
from src.study.claims import Claims, finished_trials, open_study, queue_points
from src.study.judging import Stopping
from src.study.space import Number, Point, Space, Step
from src.study.trials import TrialRunner, shortened
from tests import plans
from tests.study.studies import JUDGE

SPARSITY = Number(mildest=0.5, hardest=0.9, log=False)
SPACE = Space({"prune": Step(method="prune_magnitude", optional=True, choose={"sparsity": SPARSITY})}, ["fc.weight"])


def plan_of(point: Point, number: int, length: float) -> Any:
    """Stands for a plan: one step, which is trained unless it is left out."""
    config = {"length": length, **point} if point["prune"] else dict(point)
    return SimpleNamespace(steps={"prune": SimpleNamespace(config=config)})


class Runner(TrialRunner):
    """A runner whose models need no training."""

    def measure(self, plan: Any) -> dict[str, float]:
        config = plan.steps["prune"].config
        sparsity = config.get("prune.sparsity", 0.0)
        if sparsity == 0.9:
            raise ValueError("nothing is left\nof it")
        if sparsity == 0.89:
            raise OSError("the disk is full")
        return {"accuracy_validation": 1.0 - 0.1 * sparsity, "size_gzip_bytes": 1000 * (1 - sparsity)}


def run(folder: Path, *points: Point) -> optuna.Study:
    study = open_study(f"sqlite:///{folder}/s.db", "s", ["minimize"], {"seed": 0}, folder / "locks")
    queue_points(study, points)
    runner = Runner(
        space=SPACE,
        judge=JUDGE,
        stopping=Stopping(observed=1, margin=0.0),
        lengths=[0.5, 1.0],
        plan_of=plan_of,
        splits=None,  # type: ignore[arg-type]
        store=None,  # type: ignore[arg-type]
        folder=folder,
        target="onnxruntime",
    )
    claims = Claims(
        study,
        optuna.samplers.RandomSampler,
        SPACE.choose,
        seed=0,
        trials=len(points),
        attempts=2,
        locks=folder / "locks",
    )
    runner.run_trials(study, claims, lambda: None)
    return study


def pruned(sparsity: float) -> Point:
    return {"prune": True, "prune.sparsity": sparsity}


def test_what_a_trial_leaves_in_the_study_keeps_its_keys(tmp_path: Path) -> None:
    study = run(tmp_path, {"prune": False, "prune.sparsity": 0.5}, pruned(0.5), pruned(0.8), pruned(0.9))
    assert set(study.user_attrs) == {"id", "asked", "begun", "schema"}
    assert study.user_attrs["asked"] == {"seed": 0}
    alone, whole, stopped, failed = (trial.user_attrs for trial in finished_trials(study))
    assert set(whole) == {"point", "values", "accuracies", "busy_s", "spent_s"}
    assert set(stopped) == {*whole, "stopped"}
    assert set(failed) == {"point", "reason"}
    assert alone["point"] == {"prune": False}
    assert alone["accuracies"] == {"1.0": 1.0}  # nothing is trained, so that one length says all
    assert whole["accuracies"] == {"0.5": 0.95, "1.0": 0.95}
    assert whole["values"] == {"accuracy_validation": 0.95, "size_gzip_bytes": 500.0}


def test_a_trial_that_longer_training_would_not_save_is_stopped_with_its_reason(tmp_path: Path) -> None:
    first, second = finished_trials(run(tmp_path, pruned(0.5), pruned(0.8)))
    assert second.state is TrialState.COMPLETE
    assert list(second.user_attrs["accuracies"]) == ["0.5"]
    assert second.user_attrs["stopped"].startswith("out of budget: accuracy fell by 7.00 points even with 0.00 points")
    assert second.constraints.keys() == first.constraints.keys() == {"accuracy_drop"}


def test_a_trial_that_fails_has_its_reason_and_the_next_one_runs(tmp_path: Path) -> None:
    first, second = finished_trials(run(tmp_path, pruned(0.9), pruned(0.5)))
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.user_attrs["reason"] == "ValueError: nothing is left"


def test_a_full_disk_leaves_the_trial_to_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is full"):
        run(tmp_path, pruned(0.89))
    (trial,) = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db").trials
    assert trial.state is TrialState.RUNNING


def test_the_stages_of_a_trial_are_used_by_its_search_as_long_as_that_exists(tmp_path: Path) -> None:
    made = plans.plan("method=cluster")
    store = StageStore(tmp_path / "artifacts")
    folder = tmp_path / "search"
    folder.mkdir()
    runner = TrialRunner(
        space=SPACE,
        judge=JUDGE,
        stopping=Stopping(observed=1, margin=0.0),
        lengths=[1.0],
        plan_of=plan_of,
        splits=prepare(made),
        store=store,
        folder=folder,
        target="onnxruntime",
    )
    assert runner.measure(made).keys() >= {"accuracy_validation", "size_gzip_bytes"}
    assert [stage.runs for stage in store.stages()] == [("../search",), ("../search",)]
    folder.rmdir()
    assert [stage.runs for stage in store.stages()] == [(), ()]


def test_first_points_are_queued_once(tmp_path: Path) -> None:
    study = run(tmp_path, pruned(0.5))
    queue_points(study, [pruned(0.7)])
    assert len(study.trials) == 1


def test_every_fine_tuning_of_a_chain_is_shortened_and_lasts_an_epoch_at_least() -> None:
    config = {
        "training": {"_target_": RECIPE, "epochs": 30},
        "method": {"steps": {"a": {"fine_tune": {"_target_": RECIPE, "epochs": 8}}, "b": {"epochs": 8}}},
    }
    steps = shortened(config, 0.25)["method"]["steps"]
    assert (steps["a"]["fine_tune"]["epochs"], steps["b"]["epochs"]) == (2, 8)
    assert shortened(config, 0.01)["method"]["steps"]["a"]["fine_tune"]["epochs"] == 1
    assert shortened(config, 0.25)["training"]["epochs"] == 30
    assert config["method"]["steps"]["a"]["fine_tune"]["epochs"] == 8  # type: ignore[index]
