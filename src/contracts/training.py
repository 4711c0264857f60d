"""What a training is made of: the recipe, the loss, callbacks around each step, and who wants to know how it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from src.contracts.data import EpochBatches

KEEP = ("best", "last")
AUXILIARY_WEIGHT = 0.3  # as in GoogLeNet, Szegedy et al. 2014, arXiv:1409.4842, section 5; Inception v3 has 0.4


class Loss(Protocol):
    """What training minimizes; an object, so that distillation is one loss among others."""

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """The mean loss of a batch: ``logits [n, classes]``, ``labels [n]``, ``images [n, c, h, w]``."""
        ...


class TrainingLoop(Protocol):
    """A training of the user's own."""

    def __call__(self, model: nn.Module, train: EpochBatches, validation: EpochBatches) -> object:
        """Train ``model`` in place; both loaders yield ``(images [b, c, h, w], labels [b])``, normalized."""
        ...


@runtime_checkable
class TaughtLoss(Protocol):
    """A loss that also compares the network with a teacher."""

    def taught(self, student: nn.Module, before: nn.Module, example_input: Tensor) -> AbstractContextManager[Loss]:
        """The loss while ``student`` is trained; ``before`` is the network as it came to this step."""
        ...


def check_recipe(*, epochs: int = 1, batch_size: int = 1, keep: str = KEEP[0]) -> None:
    """Check the values of a ``Recipe`` that need no torch.

    Raises:
        ValueError: A value is out of range.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, and is {epochs}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, and is {batch_size}")
    if keep not in KEEP:
        raise ValueError(f"keep must be one of {', '.join(KEEP)}, and is {keep}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How weights are trained.

    Attributes:
        epochs: Number of epochs, at least 1.
        batch_size: Images in a batch, at least 1.
        optimizer: Called with the parameters; a partial of a ``torch.optim`` class.
        rate: Factor of the learning rate, given the share of all steps that are done.
        loss: What is minimized.
        keep: ``best`` keeps the weights of the epoch best on validation data, ``last`` those of the last epoch.
        auxiliary_weight: Factor of the loss of each of a network's auxiliary logits, at least 0.
    """

    epochs: int
    batch_size: int
    optimizer: Callable[..., Any]
    rate: Callable[[float], float]
    loss: Loss
    keep: str
    auxiliary_weight: float = AUXILIARY_WEIGHT

    def __post_init__(self) -> None:
        check_recipe(epochs=self.epochs, batch_size=self.batch_size, keep=self.keep)
        if not self.auxiliary_weight >= 0:
            raise ValueError(f"auxiliary_weight must be at least 0, and is {self.auxiliary_weight}")
        import torch

        try:
            self.optimizer([torch.zeros(1, requires_grad=True)])
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimizer: {error}") from error


class StepCallback:
    """What a method does around each optimizer step while it fine-tunes; does nothing by itself.

    Attributes:
        capturable: Whether a GPU may replay ``after_backward`` as it was first called, with the network's forward and
            backward pass: it changes tensors in place, by what is in tensors, and reads no number on the host;
            ``before_step`` and ``after_step`` stay on the host and change tensors in place, too. False if nothing is
            said: every step is then started from the host, which is slower on a GPU.
    """

    capturable = False

    def before_step(self, model: nn.Module, progress: float) -> None:
        """Called before a step; ``progress`` in [0, 1) is the share of all steps already taken."""

    def after_backward(self, model: nn.Module) -> None:
        """Called between the backward pass and the step, when every gradient is there and may be changed."""

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Called after a step; ``progress`` in (0, 1]."""


class FineTune(Protocol):
    """Trains ``model`` in place on the training split; a training that was cut off resumes at its last epoch.

    Zeros stay zeros and weights that share a value go on sharing one, so that the result of earlier steps is kept.
    """

    def __call__(
        self,
        model: nn.Module,
        recipe: Recipe,
        callbacks: Sequence[StepCallback] = (),
        loss: Loss | None = None,
    ) -> None: ...


@dataclass(frozen=True)
class Epoch:
    """One epoch of a stage's training.

    Attributes:
        epoch: Counted from 0.
        train_loss: Mean over the epoch's batches.
        train_accuracy, validation_accuracy: Shares in [0, 1].
        learning_rate: At the epoch's end.
        seconds: Duration of the epoch.
        finished_at: Seconds since 1970.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_accuracy: float
    learning_rate: float
    seconds: float
    finished_at: float


class TrainingProgress(Protocol):
    """Whoever wants to know how a training goes: the terminal, the tracking store."""

    def start(self, epochs: int, steps: int) -> None:
        """A training of so many epochs, and so many steps in all, begins."""
        ...

    def resumed(self, epoch: int) -> None:
        """The training resumes after ``epoch`` (counted from 0), the last one that was finished before a stop."""
        ...

    def step(self, epoch: int, step: int, loss: float) -> None:
        """``step`` steps are done in all; ``loss`` is the mean of the epoch so far."""
        ...

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done."""
        ...

    def say(self, line: str) -> None:
        """A line for whoever started the training."""
        ...

    def stop(self) -> None:
        """The training ended, well or not."""
        ...
