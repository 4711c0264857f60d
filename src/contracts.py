"""The protocols and value types through which the rooms speak to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class InputError(Exception):
    """What the user asked for cannot be done; the message says why and what to do (exit 2)."""


class NotExportableError(InputError):
    """A target cannot hold the network; other targets of the same run may."""


class NoEffectError(ValueError):
    """A method would change nothing; with a trained network instead of an untrained one it might."""


class TrackingError(Exception):
    """The tracking store refused or did not answer; results stay on disk (exit 3)."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# Data ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageSet:
    """Images and labels held in memory (or memory-mapped).

    Attributes:
        images: ``[n, channels, height, width]``, uint8.
        labels: ``[n]``, int64, each in ``[0, classes)``.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> ImageSet:
        """The images and labels at ``indices`` (``[k]``, int64), in that order."""
        return ImageSet(self.images[indices], self.labels[indices])


class Augmentation(Protocol):
    """A random change of training images, on whole batches."""

    def __call__(self, images: Tensor, generator: Any) -> Tensor:
        """Change ``images`` (``[n, c, h, w]``, uint8 or float) and keep their shape."""
        ...


@dataclass(frozen=True)
class DataSplits:
    """A data set, split; the test part is for result rows and nothing else.

    Attributes:
        name: How people call it, e.g. ``cifar10``.
        classes: The label names, in label order.
        train, validation, test: The three parts.
        calibration: Training images (never validation, never test) shown to post-training methods.
        mean, std: Per channel, of pixels scaled to [0, 1].
        augmentation: Applied to training batches only; None leaves them as they are.
        checksum: SHA-256 over every pixel and label as published (training set, then test set).
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    calibration: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation | None
    checksum: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


class DataSource(Protocol):
    """What a ``conf/data`` file's ``_target_`` builds."""

    def load(self) -> DataSplits:
        """Read, check and split the data.

        Raises:
            InputError: It is missing, damaged or not what it says.
        """
        ...


# Training -----------------------------------------------------------------------------------------


class EpochBatches(Protocol):
    """Batches whose order and augmentation follow from the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class Loss(Protocol):
    """What training minimises; an object, so that distillation is one among others."""

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """The mean loss of a batch: ``logits [n, classes]``, ``labels [n]``, ``images [n, c, h, w]``."""
        ...


@runtime_checkable
class TaughtLoss(Protocol):
    """A loss that also compares with a teacher."""

    def taught(self, student: nn.Module, before: nn.Module, example_input: Tensor) -> AbstractContextManager[Loss]:
        """The loss while ``student`` is trained; ``before`` is the network as it came to this step."""
        ...


class StepCallback:
    """What a method does around each optimizer step while it fine-tunes; does nothing by itself."""

    def before_step(self, model: nn.Module, progress: float) -> None:
        """Called before a step; ``progress`` in [0, 1) is the share of all steps already taken."""

    def after_backward(self, model: nn.Module) -> None:
        """Called between the backward pass and the step, when every gradient is there and may be changed."""

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Called after a step; ``progress`` in (0, 1]."""


class TrainingProgress(Protocol):
    """Who wants to know how a training goes: the terminal, the tracking store."""

    def start(self, epochs: int, steps: int) -> None:
        """A training of so many epochs and steps in all begins."""
        ...

    def resumed(self, epoch: int) -> None:
        """It goes on after ``epoch`` (counted from 0), the last one finished before a stop."""
        ...

    def step(self, epoch: int, step: int, loss: float) -> None:
        """``step`` steps are done in all; ``loss`` is the epoch's mean so far."""
        ...

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done."""
        ...

    def stop(self) -> None:
        """The training ended, well or not."""
        ...


class FineTune(Protocol):
    """Trains ``model`` in place on the training split, resuming where a stopped run left off.

    What earlier steps made is kept meanwhile: zeros stay zeros, weights that share a value go on sharing one.
    """

    def __call__(
        self,
        model: nn.Module,
        recipe: Any,
        callbacks: Sequence[StepCallback] = (),
        loss: Loss | None = None,
    ) -> None: ...


# Methods ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Context:
    """All that an algorithm may need beside the model.

    Attributes:
        calibration: Iterable again and again; yields ``(images [n, c, h, w] float32 normalized,
            labels [n])`` of the calibration part.
        loss: The loss the baseline was trained with.
        example_input: One normalized image, ``[1, c, h, w]``.
        seed: Of the run.
        fine_tune: Trains the model when the algorithm trains.
    """

    calibration: Iterable[tuple[Tensor, Tensor]]
    loss: Loss
    example_input: Tensor
    seed: int
    fine_tune: FineTune


@runtime_checkable
class Method(Protocol):
    """A compression method: one file in ``src/methods``, one in ``conf/method``, one test.

    It may declare, as attributes of its class, what a chain needs to know:

    - ``makes``: what later steps must keep, of ``zeros`` and ``shared values``;
    - ``undoes``: which of these it cannot keep, with the reason;
    - ``ends_chain``: why no step can follow.
    """

    def compress(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the compressed model; ``model`` may be changed in place.

        Raises:
            NoEffectError: It would change nothing.
            ValueError: It cannot be done: everything would go, a layer's name matches nothing, …
        """
        ...


@runtime_checkable
class StructuralMethod(Method, Protocol):
    """A method whose result has another structure than the module it was given.

    A stage that was found again is rebuilt from its record: the network is built anew, each step's
    ``rebuild`` gives it the structure, and the stored weights are loaded into that.
    """

    def structure(self, model: nn.Module) -> dict[str, Any]:
        """What ``rebuild`` needs, as JSON can hold it."""
        ...

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Give an untouched ``model`` the recorded structure (weights are loaded afterwards)."""
        ...


@dataclass(frozen=True)
class StoredWeight:
    """What a file holds for a weight: ``(integers - zero_point) * scale`` are its values.

    Attributes:
        integers: int32, of the weight's shape.
        bits: Of each.
        scale, zero_point: float32 and int32, ``[]`` or ``[out]``.
    """

    integers: Tensor
    bits: int
    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True)
class Lowered:
    """A quantized network as exporters take it.

    Attributes:
        model: In operators that every exporter knows.
        weights: By parameter name, those that the exporter is to store as integers; where operators for that are in
            the model, it is empty.
        integer: Whether activations are integers, too, so that runtimes compute in them.
    """

    model: nn.Module
    weights: Mapping[str, StoredWeight]
    integer: bool


@runtime_checkable
class QuantizingMethod(StructuralMethod, Protocol):
    """A method whose weights are stored in fewer bits; it ends a chain."""

    def lower(self, model: nn.Module, example_input: Tensor) -> Lowered:
        """A copy for the exporters; ``example_input`` is ``[1, c, h, w]``."""
        ...

    def stored_weights(self, model: nn.Module) -> dict[str, StoredWeight]:
        """What a file holds for each quantized weight, by parameter name."""
        ...


# Deployment and measuring -------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelCard:
    """What a file must say of itself so that it can be used without this project.

    Attributes:
        classes: Label names in output order.
        image_shape: ``(channels, height, width)``.
        mean, std: Per channel, of pixels scaled to [0, 1].
        identity: Of the stage that was exported.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    identity: str


@dataclass(frozen=True)
class GraphTensor:
    """A tensor of an exported graph: its elements at batch 1, its bytes, and non-zeros if it is stored."""

    elements: int
    size_bytes: int
    nonzero: int | None = None


class Role(Enum):
    """What an operation does to memory when a runtime executes it."""

    COMPUTE = "writes new memory"
    IN_PLACE = "element-wise: overwrites an input that nobody reads later"
    MOVING = "reshapes or copies nothing"
    POOLING = "writes new memory, of its input's type"
    QUANTIZE = "turns floats into integers, fused into the operation before it"
    DEQUANTIZE = "turns integers into floats, fused into the operation after it"


@dataclass(frozen=True)
class GraphNode:
    """An operation of an exported graph; ``macs`` at batch 1; ``name`` as the file calls it, after its layer."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    role: Role
    macs: int = 0
    name: str = ""


@dataclass(frozen=True)
class Graph:
    """An exported file as measuring sees it.

    Attributes:
        nodes: In the order of the file.
        tensors: By name; stored ones have ``nonzero``.
        weights: Names of the stored ones that are parameters (scales and shapes are not).
        inputs, outputs: Names of what goes in and comes out.
    """

    nodes: tuple[GraphNode, ...]
    tensors: Mapping[str, GraphTensor]
    weights: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Session(Protocol):
    """An exported file, loaded in its runtime."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits ``[n, classes]`` of ``images [n, c, h, w]``, float32, normalized."""
        ...


class Target(Protocol):
    """Where a model is to run: how it is written, loaded and looked into.

    Attributes:
        ending: Of its files.
        extra: Of ``pyproject.toml``, that its runtime needs; None where it is always installed.
        free_batch: Whether a file takes any number of images at once; else its session takes them one by one.

    It may have more:

    - ``beside``: endings of what it writes beside a file and under its name;
    - ``stand_in``: True where another runtime runs the file here, whose times say nothing of it;
    - ``operators(path, image, threads)``: ``[(name, kind, median ms)]`` by the runtime's own profiler;
    - ``remarks(path)``: lines on what the file will not be good at.
    """

    ending: str
    extra: str | None
    free_batch: bool

    @property
    def runtime(self) -> str:
        """What runs the files here."""
        ...

    def precision(self, integer: bool) -> str:
        """The precision the file computes in: ``float32``, ``int8``, …"""
        ...

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        """Write ``model`` to ``path``; return every part of the file, ``path`` first.

        ``weights`` are those to be stored as integers, by parameter name, as far as the format can.
        """
        ...

    def load(self, path: Path, threads: int = 1) -> Session:
        """Load the file as written, for so many threads."""
        ...

    def graph(self, path: Path) -> Graph:
        """Read the file's operations and tensors."""
        ...

    def read_card(self, path: Path) -> ModelCard:
        """Read what the file says of itself."""
        ...


# Results and tracking -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    """One epoch of a stage's training; ``finished_at`` in seconds since 1970."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_accuracy: float
    learning_rate: float
    seconds: float
    finished_at: float


LEAST_AGREEMENT = 0.99  # of predicted classes with torch's; below, a file does not do what its model does


@dataclass(frozen=True)
class Row:
    """One exported file, measured: a line of the result table (see docs/results.md).

    Columns that cannot be measured are None, with the reason in ``unavailable``.
    """

    variant: str
    target: str
    data: str
    model: str
    runtime: str
    precision: str
    artifact: str
    sha256: str
    identity: str
    weights_kept: str
    accuracy: float
    accuracy_per_class: dict[str, float | None]
    accuracy_validation: float
    accuracy_torch: float
    size_bytes: int
    size_gzip_bytes: int
    parameters: int | None
    nonzero_parameters: int | None
    macs: int | None
    peak_activation_bytes: int | None
    energy_uj_estimate: float | None
    bits_per_weight: float
    agreement: float
    logit_difference_max: float
    logit_difference_mean: float
    departs_at: str | None
    measured_at: str
    machine: str
    compression_ratio: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    latency_ms_p99: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    throughput_per_s: float | None = None
    throughput_batch: int | None = None
    load_ms: float | None = None
    peak_memory_bytes: int | None = None
    energy_uj: float | None = None
    timed_at: str | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """A variant for which a target has no file, and why."""

    variant: str
    target: str
    reason: str


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial as the tracking store keeps it.

    Attributes:
        number: Of the trial.
        params: What it chose.
        values: What was measured; empty where it failed.
        tags: Why it was stopped or failed, and whether it is within the budget.
        failed: Whether it failed.
        started, ended: Seconds since 1970.
    """

    number: int
    params: Mapping[str, Any]
    values: Mapping[str, float]
    tags: Mapping[str, str]
    failed: bool
    started: float
    ended: float


class Tracker(Protocol):
    """Where runs are written down for a team to look at."""

    def start(self, run: RunDescription) -> None:
        """Open the run.

        Raises:
            TrackingError: Nothing answers at the address.
        """
        ...

    def epoch(self, stage: str, epoch: Epoch) -> None:
        """Log one epoch of the stage's training."""
        ...

    def rows(self, rows: Sequence[Row], folder: Path) -> None:
        """Log the result rows and every file of the run's folder, where the rows' artifacts lie."""
        ...

    def finish(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        ...


@dataclass(frozen=True)
class RunDescription:
    """What is known of a run before it starts."""

    experiment: str
    variant: str
    model: str
    seed: int
    data: DataSplits


ModelBuilder = Callable[..., "nn.Module"]
