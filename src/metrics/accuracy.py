"""How many images a model classifies rightly: a torch model, or an exported file in its runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from src.contracts import Session


@dataclass(frozen=True)
class Accuracy:
    """Share of images classified rightly, of all and of each class.

    Attributes:
        overall: In [0, 1].
        per_class: ``[classes]``; None for a class without an image.
    """

    overall: float
    per_class: tuple[float | None, ...]


def accuracy(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Accuracy:
    """Compare the class of the largest logit with the label.

    Args:
        predict: Images ``[n, c, h, w]`` to logits ``[n, classes]``.
        batches: Images and labels.
        classes: How many there are.
    """
    hits, counts = torch.zeros(classes, dtype=torch.int64), torch.zeros(classes, dtype=torch.int64)
    for images, labels in batches:
        right = labels[predict(images).argmax(1) == labels]
        hits += torch.bincount(right, minlength=classes)
        counts += torch.bincount(labels, minlength=classes)
    shares = tuple(int(hit) / int(count) if count else None for hit, count in zip(hits, counts, strict=True))
    return Accuracy(int(hits.sum()) / max(1, int(counts.sum())), shares)


def torch_accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Accuracy:
    """Of a torch model in eval mode, in the precision of its weights."""
    with torch.inference_mode():
        return accuracy(model.eval(), batches, classes)


def file_accuracy(session: Session, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Accuracy:
    """Of an exported file in its runtime."""
    return accuracy(lambda images: torch.from_numpy(session(images.numpy())), batches, classes)
