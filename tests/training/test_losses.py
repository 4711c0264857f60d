"""Losses against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from src.training.losses import CrossEntropy, Distillation, similarity_distance, softened, taught


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


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Five images of six pixels, and their labels."""
    torch.manual_seed(0)
    return torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])


def test_label_smoothing_is_that_of_the_formula() -> None:
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    target = torch.full((5, 4), 0.2 / 4, dtype=torch.float64)
    target[torch.arange(5), labels] += 0.8
    expected = -(target * torch.log_softmax(logits, 1)).sum(1).mean()
    assert torch.allclose(CrossEntropy(label_smoothing=0.2)(logits, labels, torch.empty(0)), expected)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_label_smoothing_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
        CrossEntropy(label_smoothing=share)


def test_softened_predictions_diverge_by_the_formula() -> None:
    student, one, other = [1.0, -0.5, 2.0], [0.3, 0.1, -1.0], [2.0, 2.0, 0.0]
    target = [(a + b) / 2 for a, b in zip(softmax(one, 3.0), softmax(other, 3.0), strict=True)]
    expected = 9 * sum(p * math.log(p / q) for p, q in zip(target, softmax(student, 3.0), strict=True))
    found = softened(torch.tensor([student]), [torch.tensor([one]), torch.tensor([other])], 3.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_student_that_equals_its_teacher_diverges_by_nothing(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert float(softened(batch[0], [batch[0]], 3.0)) == pytest.approx(0, abs=1e-6)


def test_the_loss_mixes_the_terms_of_labels_and_teacher(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, before = nn.Linear(6, 3), nn.Linear(6, 3)
    images, labels = batch
    with distillation(weight=0.25).taught(student, before, torch.zeros(1, 6)) as loss:
        found = loss(student(images), labels, images)
    hard = nn.functional.cross_entropy(student(images), labels)
    soft = softened(student(images), [before(images)], 4.0)
    assert torch.allclose(found, 0.75 * hard + 0.25 * soft)


def test_teachers_are_copied_and_get_no_gradient(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, before = nn.Linear(6, 3), nn.Linear(6, 3)
    images, labels = batch
    with distillation(weight=1.0).taught(student, before, torch.zeros(1, 6)) as loss:
        loss(student(images), labels, images).backward()
    assert student.weight.grad is not None
    assert before.weight.grad is None
    assert before.weight.requires_grad


def test_a_loss_without_teachers_is_bound_as_it_is(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    plain, model = CrossEntropy(label_smoothing=0.0), nn.Linear(6, 3)
    with taught(plain, model, model, torch.zeros(1, 6)) as loss:
        assert loss is plain


def test_a_loss_with_teachers_is_bound_to_them(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, before = nn.Linear(6, 3), nn.Linear(6, 3)
    images, labels = batch
    mixed = distillation()
    with taught(mixed, student, before, torch.zeros(1, 6)) as loss:
        assert not torch.allclose(loss(student(images), labels, images), mixed(student(images), labels, images))


def test_a_network_cannot_teach_itself_from_scratch() -> None:
    model = nn.Linear(6, 3)
    with (
        pytest.raises(ValueError, match="teachers is empty"),
        taught(distillation(), model, model, torch.zeros(1, 6)),
    ):
        pass


def test_two_networks_that_find_the_same_images_similar_have_no_distance() -> None:
    features = torch.randn(6, 4, 2, 2)
    rotated = torch.linalg.qr(torch.randn(16, 16))[0] @ features.flatten(1).T
    assert float(similarity_distance(features, 3 * rotated.T)) == pytest.approx(0, abs=1e-9)
    assert float(similarity_distance(features, torch.randn(6, 9))) > 1e-4


def test_hints_compare_modules_of_one_name_and_their_hooks_are_removed(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    student = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    teacher = nn.Sequential(nn.Linear(6, 20), nn.Linear(20, 3))
    images, labels = batch
    hinted = distillation(weight=0.0, teachers=[teacher], hints=["0"], hint_weight=2.0)
    with hinted.taught(student, student, torch.zeros(1, 6)) as loss:
        found = loss(student(images), labels, images)
    plain = nn.functional.cross_entropy(student(images), labels)
    distance = similarity_distance(student[0](images), teacher[0](images))
    assert torch.allclose(found, plain + 2 * distance)
    assert not student[0]._forward_hooks


def test_a_hint_that_names_no_module_is_refused_with_the_modules_that_there_are() -> None:
    student, teacher = (nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)) for _ in range(2))
    with (
        pytest.raises(ValueError, match="no module is called 7; the outermost are 0, 1"),
        distillation(hints=["7"], hint_weight=1.0).taught(student, teacher, torch.zeros(1, 6)),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
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
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distillation(**settings)
