"""Distillation: the formula, teachers of any kind, and its use in other steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.contracts import DataSplits, InputError
from src.methods.distill import Distill
from src.models.weights import save_weights
from src.training.losses import Distillation, similarity_distance, softened
from tests.plans import experiment, plan


def distillation(**changed: Any) -> Distillation:
    settings: dict[str, Any] = {
        "temperature": 4.0,
        "weight": 0.7,
        "label_smoothing": 0.0,
        "teachers": [],
        "hints": [],
        "hint_weight": 0.0,
    }
    return Distillation(**{**settings, **changed})


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def test_softened_answers_by_the_formula() -> None:
    student, one, other = [1.0, -0.5, 2.0], [0.3, 0.1, -1.0], [2.0, 2.0, 0.0]
    wanted = [(a + b) / 2 for a, b in zip(softmax(one, 3.0), softmax(other, 3.0), strict=True)]
    expected = 9 * sum(p * math.log(p / q) for p, q in zip(wanted, softmax(student, 3.0), strict=True))
    found = softened(torch.tensor([student]), [torch.tensor([one]), torch.tensor([other])], 3.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_whole_loss_mixes_labels_and_teacher() -> None:
    torch.manual_seed(0)
    student, before = nn.Linear(6, 3), nn.Linear(6, 3)
    images, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])
    with distillation(weight=0.25).taught(student, before, torch.zeros(1, 6)) as loss:
        found = loss(student(images), labels, images)
    hard = nn.functional.cross_entropy(student(images), labels)
    soft = softened(student(images), [before(images)], 4.0)
    assert torch.allclose(found, 0.75 * hard + 0.25 * soft)


def test_a_network_is_no_distance_from_one_that_finds_the_same_images_alike() -> None:
    features = torch.randn(6, 4, 2, 2)
    rotated = torch.linalg.qr(torch.randn(16, 16))[0] @ features.flatten(1).T
    assert float(similarity_distance(features, 3 * rotated.T)) == pytest.approx(0, abs=1e-9)
    assert float(similarity_distance(features, torch.randn(6, 9))) > 1e-4


def test_hints_compare_modules_of_one_name_and_hooks_are_taken_off() -> None:
    student = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    teacher = nn.Sequential(nn.Linear(6, 20), nn.Linear(20, 3))
    images, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])
    hinted = distillation(weight=0.0, teachers=[teacher], hints=["0"], hint_weight=2.0)
    with hinted.taught(student, student, torch.zeros(1, 6)) as loss:
        found = loss(student(images), labels, images)
    plain = nn.functional.cross_entropy(student(images), labels)
    apart = similarity_distance(student[0](images), teacher[0](images))
    assert torch.allclose(found, plain + 2 * apart)
    assert not student[0]._forward_hooks
    with (
        pytest.raises(ValueError, match="no module is called 7"),
        distillation(hints=["7"], hint_weight=1.0).taught(student, teacher, images),
    ):
        pass


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


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": 0}, "temperature must be more than 0"),
        ({"temperature": float("nan")}, "temperature must be more than 0"),
        ({"weight": 1.5}, "weight must be in"),
        ({"weight": float("nan")}, "weight must be in"),
        ({"hint_weight": float("nan")}, "hint_weight must be"),
        ({"hint_weight": -1}, "hint_weight must be"),
        ({"hint_weight": 1}, "neither does anything alone"),
        ({"hints": ["fc"]}, "neither does anything alone"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        distillation(**settings)
