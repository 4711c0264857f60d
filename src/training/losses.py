"""Losses as objects: what training minimises is an argument."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax

from src.contracts import Loss


class CrossEntropy:
    """Mean cross entropy of a batch.

    Args:
        label_smoothing: Share of the target spread over all classes, in [0, 1).

    Paper: Szegedy et al. 2016, arXiv:1512.00567, section 7 (smoothing).
    """

    def __init__(self, *, label_smoothing: float) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), and is {label_smoothing}")
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


class Distillation:
    """The labels' cross entropy, mixed with how far the student's softened answers are from the teachers'.

    ``(1 - weight) CE(y, s) + weight T^2 KL(mean_t softmax(t / T) || softmax(s / T)) + hint_weight SP``, where SP
    compares, for each hint, which images of a batch the two networks find alike.

    Args:
        temperature: T, more than 0.
        weight: Of the teachers' part, in [0, 1].
        label_smoothing: Of the labels' part, in [0, 1).
        teachers: Networks, or what builds them from ``num_classes`` and ``in_channels``
            (``src.models.trained.Trained``); their answers are averaged. None: the network as it came to the step.
        hints: Modules of this name in the student and in each teacher are compared.
        hint_weight: At least 0.

    Paper: Hinton et al. 2015, arXiv:1503.02531, section 2; hints: Tung and Mori 2019, arXiv:1907.09682, equation 4,
    which needs no layer of its own where student and teacher differ in width (Romero et al. 2015 does).
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
        """The labels' part alone: without ``taught`` there is no teacher to listen to."""
        return self.labels(logits, labels, images)

    @contextmanager
    def taught(self, student: nn.Module, before: nn.Module, example_input: Tensor) -> Iterator[Loss]:
        """The whole loss, while ``student`` is trained; ``before`` teaches where no teacher is named.

        Raises:
            ValueError: A hint names no module of the student or of a teacher.
        """
        if not self.teachers and before is student:
            raise ValueError("teachers is empty, and there is no earlier network that could teach one from scratch")
        teachers = [_built(teacher, before, example_input) for teacher in self.teachers] or [copy.deepcopy(before)]
        seen: dict[nn.Module, dict[str, Tensor]] = {network: {} for network in (student, *teachers)}
        hooks = [_listen(network, hint, seen[network]) for network in seen for hint in self.hints]
        for teacher in teachers:
            teacher.eval().requires_grad_(False)

        def loss(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
            with torch.no_grad():
                answers = [teacher.to(images.device)(images) for teacher in teachers]
            total = (1 - self.weight) * self.labels(logits, labels, images)
            total = total + self.weight * softened(logits, answers, self.temperature)
            for hint in self.hints:
                apart = [similarity_distance(seen[student][hint], seen[teacher][hint]) for teacher in teachers]
                total = total + self.hint_weight * torch.stack(apart).mean()
            return total

        try:
            yield loss
        finally:
            for hook in hooks:
                hook.remove()


def softened(logits: Tensor, answers: Sequence[Tensor], temperature: float) -> Tensor:
    """``T^2 KL(mean_t softmax(t / T) || softmax(s / T))``, the mean over a batch.

    Args:
        logits: Of the student, ``[n, classes]``.
        answers: Logits of each teacher.
        temperature: T.

    Paper: Hinton et al. 2015, arXiv:1503.02531, section 2; its factor T^2 keeps gradients of one size.
    """
    wanted = torch.stack([softmax(answer.float() / temperature, 1) for answer in answers]).mean(0)
    given = log_softmax(logits.float() / temperature, 1)
    return temperature**2 * kl_div(given, wanted, reduction="batchmean")


def similarity_distance(features: Tensor, others: Tensor) -> Tensor:
    """``||normalize(F F') - normalize(G G')||^2 / n^2`` of features ``[n, ...]`` of any two shapes.

    Paper: Tung and Mori 2019, arXiv:1907.09682, equations 1 to 4.
    """
    alike = [normalize(f.float().flatten(1) @ f.float().flatten(1).T, dim=1) for f in (features, others)]
    return (alike[0] - alike[1]).square().sum() / len(features) ** 2


def _built(teacher: Callable[..., nn.Module], before: nn.Module, example_input: Tensor) -> nn.Module:
    if isinstance(teacher, nn.Module):
        return copy.deepcopy(teacher)
    with torch.no_grad():
        classes = before(example_input).shape[1]
    _, channels, height, width = example_input.shape
    return teacher(num_classes=classes, in_channels=channels, image_size=(height, width))


def _listen(network: nn.Module, hint: str, seen: dict[str, Tensor]):  # type: ignore[no-untyped-def]
    try:
        module = network.get_submodule(hint)
    except AttributeError:
        names = ", ".join(name for name, _ in network.named_children())
        raise ValueError(f"hints: no module is called {hint}; the outermost are {names}") from None
    return module.register_forward_hook(lambda _, inputs, output: seen.__setitem__(hint, output))
