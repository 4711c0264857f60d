"""Accuracy of a torch model, or of an exported file in its runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from src.contracts import Session


@dataclass(frozen=True)
class Accuracy:
    """Share of the images that are classified correctly.

    Attributes:
        overall: Share of all images, in [0, 1].
        per_class: Share of the images of each class, ``[classes]``; None for a class without an image.
    """

    overall: float
    per_class: tuple[float | None, ...]

    @property
    def balanced(self) -> float:
        """Mean of the shares of the classes that have images: each class counts the same, however rare it is.

        Paper: Brodersen et al. 2010, ICPR, section 2, for any number of classes.
        """
        known = [share for share in self.per_class if share is not None]
        return sum(known) / max(1, len(known))


def accuracy(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Accuracy:
    """Compare the class of the largest logit with the label.

    Args:
        predict: Turns images ``[n, c, h, w]`` into logits ``[n, classes]``.
        batches: Images and labels.
        classes: Number of classes.
    """
    hits, counts = torch.zeros(classes, dtype=torch.int64), torch.zeros(classes, dtype=torch.int64)
    for images, labels in batches:
        correct = labels[predict(images).argmax(1) == labels]
        hits += torch.bincount(correct, minlength=classes)
        counts += torch.bincount(labels, minlength=classes)
    shares = tuple(int(hit) / int(count) if count else None for hit, count in zip(hits, counts, strict=True))
    return Accuracy(int(hits.sum()) / max(1, int(counts.sum())), shares)


def torch_accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Accuracy:
    """Accuracy of a torch model, put into eval mode, in the precision of its weights."""
    with torch.inference_mode():
        return accuracy(model.eval(), batches, classes)


def file_accuracy(session: Session, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Accuracy:
    """Accuracy of an exported file in its runtime."""
    return accuracy(lambda images: torch.from_numpy(session(images.numpy())), batches, classes)
