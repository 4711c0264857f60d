"""Accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.metrics.accuracy import Accuracy, accuracy, file_accuracy, torch_accuracy

Batches = list[tuple[Tensor, Tensor]]


def as_logits(images: Tensor) -> Tensor:
    """The image is its own three logits."""
    return images.flatten(1)


@pytest.fixture
def batches() -> Batches:
    """Labels 0 0 0 1 | 1 2 with predictions 0 0 2 1 | 0 2; class 3 has no image."""
    predictions = torch.tensor([0, 0, 2, 1, 0, 2])
    images = torch.nn.functional.one_hot(predictions, 4).float().view(6, 1, 2, 2)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    return [(images[:4], labels[:4]), (images[4:], labels[4:])]


def test_accuracy_is_the_share_of_correct_predictions_overall_and_for_each_class(batches: Batches) -> None:
    found = accuracy(as_logits, batches, 4)
    assert found == Accuracy(4 / 6, (2 / 3, 1 / 2, 1.0, None))


def test_batches_of_unequal_size_count_by_image(batches: Batches) -> None:
    together = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    assert accuracy(as_logits, together, 4) == accuracy(as_logits, batches, 4)


def test_a_class_without_an_image_has_no_accuracy(batches: Batches) -> None:
    assert accuracy(as_logits, batches, 4).per_class[3] is None


def test_a_class_that_is_never_hit_has_accuracy_zero() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(2, 2, 1, 1)
    assert accuracy(as_logits, [(images, torch.tensor([0, 1]))], 2) == Accuracy(0.5, (1.0, 0.0))


def test_accuracy_equals_a_count_image_by_image() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, 5, 1, 1, generator=generator)
    labels = torch.randint(5, (200,), generator=generator)
    right = [int(image.flatten().argmax()) == int(label) for image, label in zip(images, labels, strict=True)]
    found = accuracy(as_logits, zip(images.split(33), labels.split(33), strict=True), 5)
    assert found.overall == sum(right) / 200
    for name in range(5):
        of_class = [hit for hit, label in zip(right, labels.tolist(), strict=True) if label == name]
        assert found.per_class[name] == sum(of_class) / len(of_class)


def test_a_torch_model_is_measured_in_eval_mode_and_without_gradient(batches: Batches) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.9)

        def forward(self, images: Tensor) -> Tensor:
            assert torch.is_inference_mode_enabled()
            return as_logits(self.drop(images))

    assert torch_accuracy(Noisy().train(), batches, 4) == accuracy(as_logits, batches, 4)


def test_a_session_is_given_arrays(batches: Batches) -> None:
    shapes = []

    def session(images: np.ndarray) -> np.ndarray:
        shapes.append((type(images), images.shape, images.dtype))
        return images.reshape(len(images), -1)

    assert file_accuracy(session, batches, 4) == accuracy(as_logits, batches, 4)
    assert shapes == [(np.ndarray, (4, 1, 2, 2), np.float32), (np.ndarray, (2, 1, 2, 2), np.float32)]


def test_balanced_accuracy_counts_a_rare_class_as_much_as_a_frequent_one() -> None:
    """1,000 images of a class that is always hit, one of a class that never is, none of a third."""
    found = Accuracy(1000 / 1001, (1.0, 0.0, None))
    assert found.balanced == 0.5
