"""Losses, as objects that a training is given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax
from torch.utils.hooks import RemovableHandle

from src.contracts import Loss, TaughtLoss


class CrossEntropy:
    """Mean cross entropy of a batch.

    Args:
        label_smoothing: Share of the target that is spread over all classes, in [0, 1).

    Paper: Szegedy et al. 2016, arXiv:1512.00567, section 7 (smoothing).
    """

    def __init__(self, *, label_smoothing: float) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), and is {label_smoothing}")
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


class Distillation:
    """Cross entropy with the labels, plus the divergence of the student from its teachers.

    ``(1 - weight) CE(y, s) + weight T^2 KL(mean_t softmax(t / T) || softmax(s / T)) + hint_weight SP``. For each hint,
    SP compares which images of a batch student and teacher find similar.

    Args:
        temperature: T, more than 0.
        weight: Weight of the teachers' term, in [0, 1].
        label_smoothing: Label smoothing of the cross entropy, in [0, 1).
        teachers: Networks, or builders of networks (``src.models.trained.Trained``); the mean of their predictions
            teaches. If empty, the network as it came to the step is the teacher.
        hints: Names of modules that the student and each teacher have; their outputs are compared.
        hint_weight: Weight of the hints' term, at least 0.

    Paper: Hinton et al. 2015, arXiv:1503.02531, section 2; hints: Tung and Mori 2019, arXiv:1907.09682, equation 4,
    which needs no extra layer if student and teacher differ in width (Romero et al. 2015 does).
    """

    def __init__(
        self,
        *,
        temperature: float,
        weight: float,
        label_smoothing: float,
        teachers: Sequence[Callable[..., nn.Module]],
        hints: Sequence[str],
        hint_weight: float,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be more than 0, and is {temperature}")
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be in [0, 1], and is {weight}")
        if not hint_weight >= 0:
            raise ValueError(f"hint_weight must be at least 0, and is {hint_weight}")
        if bool(hints) != (hint_weight > 0):
            raise ValueError(f"hint_weight is {hint_weight}, hints are {list(hints)}: neither does anything alone")
        self.temperature, self.weight, self.hint_weight = temperature, weight, hint_weight
        self.labels = CrossEntropy(label_smoothing=label_smoothing)
        self.teachers, self.hints = list(teachers), list(hints)

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """The cross entropy alone; the teachers' terms come with ``taught``."""
        return self.labels(logits, labels, images)

    @contextmanager
    def taught(self, student: nn.Module, before: nn.Module, example_input: Tensor) -> Iterator[Loss]:
        """The loss with the teachers' terms, for the time in which ``student`` is trained.

        Args:
            student: The network that is trained.
            before: The network as it came to this step; it teaches if no teacher is given.
            example_input: One image, ``[1, c, h, w]``.

        Raises:
            ValueError: A hint names no module of the student or of a teacher, or there is no teacher.
        """
        if not self.teachers and before is student:
            raise ValueError("teachers is empty, and there is no earlier network that could teach one from scratch")
        teachers = [_built(teacher, before, example_input) for teacher in self.teachers] or [copy.deepcopy(before)]
        features: dict[nn.Module, dict[str, Tensor]] = {network: {} for network in (student, *teachers)}
        hooks = [_record(network, hint, outputs) for network, outputs in features.items() for hint in self.hints]
        for teacher in teachers:
            teacher.eval().requires_grad_(False)

        def loss(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
            with torch.no_grad():
                targets = [teacher.to(images.device)(images) for teacher in teachers]
            total = (1 - self.weight) * self.labels(logits, labels, images)
            total = total + self.weight * softened(logits, targets, self.temperature)
            for hint in self.hints:
                pairs = [(features[student][hint], features[teacher][hint]) for teacher in teachers]
                total = total + self.hint_weight * torch.stack([similarity_distance(*pair) for pair in pairs]).mean()
            return total

        try:
            yield loss
        finally:
            for hook in hooks:
                hook.remove()


def taught(loss: Loss, student: nn.Module, before: nn.Module, example_input: Tensor) -> AbstractContextManager[Loss]:
    """A context that gives the loss to train ``student`` with, its teachers bound if it has some.

    Args:
        loss: Any loss.
        student: The network that is trained.
        before: The network as it came to this step; it teaches if the loss names no teacher.
        example_input: One normalized image, ``[1, c, h, w]``.

    Raises:
        ValueError: There is no teacher, or a teacher does not fit the student; raised when the context is entered.
    """
    return loss.taught(student, before, example_input) if isinstance(loss, TaughtLoss) else nullcontext(loss)


def softened(logits: Tensor, targets: Sequence[Tensor], temperature: float) -> Tensor:
    """``T^2 KL(mean_t softmax(t / T) || softmax(s / T))``, the mean over a batch.

    Args:
        logits: Logits of the student, ``[n, classes]``.
        targets: Logits of each teacher, ``[n, classes]``.
        temperature: T.

    Paper: Hinton et al. 2015, arXiv:1503.02531, section 2; the factor T^2 makes the size of gradients independent of T.
    """
    expected = torch.stack([softmax(target.float() / temperature, 1) for target in targets]).mean(0)
    predicted = log_softmax(logits.float() / temperature, 1)
    return temperature**2 * kl_div(predicted, expected, reduction="batchmean")


def similarity_distance(features: Tensor, others: Tensor) -> Tensor:
    """``||normalize(F F') - normalize(G G')||^2 / n^2``: how differently two networks see which images are similar.

    Args:
        features: Outputs of a module of one network for a batch, ``[n, ...]``.
        others: Outputs of a module of another network for the same batch, ``[n, ...]``.

    Paper: Tung and Mori 2019, arXiv:1907.09682, equations 1 to 4.
    """
    similar = [normalize(f.float().flatten(1) @ f.float().flatten(1).T, dim=1) for f in (features, others)]
    return (similar[0] - similar[1]).square().sum() / len(features) ** 2


def _built(teacher: Callable[..., nn.Module], before: nn.Module, example_input: Tensor) -> nn.Module:
    """A copy of the teacher, or the network that it builds for the data of ``before``."""
    if isinstance(teacher, nn.Module):
        return copy.deepcopy(teacher)
    with torch.no_grad():
        classes = before(example_input).shape[1]
    _, channels, height, width = example_input.shape
    return teacher(num_classes=classes, in_channels=channels, image_size=(height, width))


def _record(network: nn.Module, hint: str, outputs: dict[str, Tensor]) -> RemovableHandle:
    """Put each output of the module ``hint`` into ``outputs`` until the returned hook is removed."""
    try:
        module = network.get_submodule(hint)
    except AttributeError:
        names = ", ".join(name for name, _ in network.named_children())
        raise ValueError(f"hints: no module is called {hint}; the outermost are {names}") from None
    return module.register_forward_hook(lambda _, inputs, output: outputs.__setitem__(hint, output))
