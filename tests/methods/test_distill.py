"""Distillation: teachers of any kind, and its use in other steps; its formula is tested with the losses."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from src.contracts import DataSplits, InputError
from src.methods.distill import Distill
from src.models.weights import save_weights
from tests.plans import experiment, plan


def test_a_trained_network_teaches_another(splits: DataSplits, tmp_path: Path) -> None:
    teacher = plan("model=small_cnn", "model.blocks=[[16],[16]]").model.value(
        num_classes=10, in_channels=3, image_size=(16, 16)
    )
    save_weights(teacher, tmp_path / "teacher.safetensors")
    given = (
        "{_target_: src.models.trained.Trained, weights: " + str(tmp_path / "teacher.safetensors") + ", "
        "model: {_target_: src.models.small_cnn.SmallCNN, _partial_: true, blocks: [[16],[16]], dense: 128, "
        "padding: 1, batch_norm: true, dropout: 0.0}}"
    )
    composed = plan("method=distill", "model=lenet300", f"method.fine_tune.loss.teachers=[{given}]")
    made = experiment(composed, tmp_path)
    base, row = made.run()
    assert row.identity != base.identity
    stage = composed.stages(splits)[1]
    assert list(stage.spec["files"]) == ["fine_tune.loss.teachers.0.weights"]


def test_a_teacher_that_does_not_fit_costs_no_training(tmp_path: Path) -> None:
    save_weights(nn.Linear(2, 2), tmp_path / "other.safetensors")
    given = (
        "{_target_: src.models.trained.Trained, weights: " + str(tmp_path / "other.safetensors") + ", "
        "model: {_target_: src.models.lenet.LeNet300, _partial_: true}}"
    )
    with pytest.raises(InputError):
        experiment(plan("method=distill", f"method.fine_tune.loss.teachers=[{given}]"), tmp_path).run()
    assert not list((tmp_path / "artifacts").glob("*/stage.json"))


def test_teachers_also_teach_a_network_from_scratch_and_none_is_refused(tmp_path: Path) -> None:
    loss = ["training.loss._target_=src.training.losses.Distillation", "+training.loss.temperature=4.0"]
    loss += ["+training.loss.weight=0.5", "+training.loss.hints=[]", "+training.loss.hint_weight=0.0"]
    with pytest.raises(InputError, match=r"training.loss.teachers is empty"):
        experiment(plan("method=baseline", *loss, "+training.loss.teachers=[]"), tmp_path).run()


@pytest.mark.slow
def test_a_learned_pruning_listens_to_its_teacher(tmp_path: Path) -> None:
    weights = []
    for temperature in (1.0, 9.0):
        composed = plan(
            "method=prune_regularized",
            "model=lenet300",
            "training@method.fine_tune=fine_tune_distilled",
            f"method.fine_tune.loss.temperature={temperature}",
        )
        weights.append(experiment(composed, tmp_path).run()[1].sha256)
    assert weights[0] != weights[1]


def test_a_recipe_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="no teacher"):
        Distill(fine_tune=plan("method=prune_magnitude").training.value)
