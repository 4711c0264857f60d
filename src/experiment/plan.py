"""All that determines an experiment's results, and from it the identity of every stage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from src.contracts import DataSource, DataSplits, InputError, Method, ModelBuilder, Recipe, Target, TrainingLoop
from src.data.images import checksum
from src.metrics.board import Board
from src.metrics.machine import machine
from src.metrics.timing import Clock
from src.models.weights import Weights
from src.stages.identity import files_of, sources, targets_of
from src.stages.specs import Stage, baseline_spec, export_spec, step_spec, timing_spec
from src.training.recipe import Compute

T = TypeVar("T")
# The source that makes a stage, beside what its config names: modules with all that they import, and modules alone.
TRAINING = ("src.training.fit", "src.data.batches", "src.models.build", "src.models.weights", "src.primitives.keeping")
TRAINING_ALONE = ("src.experiment.making", "src.metrics.layers")
MEASURING = (
    "src.metrics.rows",
    "src.metrics.accuracy",
    "src.metrics.graph",
    "src.metrics.size",
    "src.primitives.folding",
)
MEASURING_ALONE = ("src.experiment.export", "src.experiment.files")
TIMING = ("src.metrics.timing",)


@dataclass(frozen=True)
class Part(Generic[T]):
    """An object and the resolved config that made it."""

    value: T
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """All that determines an experiment's results.

    Attributes:
        name: Name of the experiment.
        variant: What result rows call the compressed model; ``baseline`` if there is no step.
        seed: Seed of the weights, the batch order and each method's random draws.
        data, model, training: What the baseline is made of.
        model_name: What people call the network.
        weights: A file of weights: the baseline, or the start of its training. None trains from scratch.
        compute: Where numbers are computed.
        steps: Methods by step name, in order.
        targets: Targets by name; each model is exported for each of them.
        clock: How files are timed.
        board: The board that is to run the files in the end.
        trained: Whether the network comes with its trained weights, and is the baseline as it is.
        loop: A training of the user's own, in place of ``training``; methods still fine-tune by recipes.
    """

    name: str
    variant: str
    seed: int
    data: Part[DataSource]
    model: Part[ModelBuilder]
    model_name: str
    weights: Weights | None
    training: Part[Recipe]
    compute: Compute
    steps: Mapping[str, Part[Method]]
    targets: Mapping[str, Part[Target]]
    clock: Clock
    board: Board
    trained: bool = False
    loop: Part[TrainingLoop] | None = None

    @property
    def trains(self) -> bool:
        """Whether the baseline is trained: from scratch, or because its head is new."""
        return not self.trained and (self.weights is None or self.weights.replace_head)

    def stages(self, splits: DataSplits) -> list[Stage]:
        """The baseline and each step, in order; known before any work, since each is named by what determines it."""
        weights_sha256 = hashlib.sha256(_read(self.weights.path)).hexdigest() if self.weights else None
        loss = targets_of(self.training.config.get("loss", {}))
        training = self.training.config if self.loop is None else self.loop.config
        entries = targets_of(self.data.config) | targets_of(self.model.config) | set(TRAINING)
        spec = baseline_spec(
            data=self.data.config,
            checksum=splits.checksum,
            model=self.model.config,
            training=training if self.trains else None,
            weights_sha256=weights_sha256,
            compute=self.compute,
            seed=self.seed,
            made_by=sources(entries | (targets_of(training) if self.trains else loss), TRAINING_ALONE),
        )
        made = [Stage.of("baseline", spec)]
        for name, step in self.steps.items():
            spec = step_spec(
                input_identity=made[-1].identity,
                calibration=checksum(splits.calibration),
                method=step.config,
                files=files_of(step.config),
                loss=self.training.config.get("loss", {}),
                compute=self.compute,
                seed=self.seed,
                made_by=sources(targets_of(step.config) | loss | set(TRAINING), TRAINING_ALONE),
            )
            made.append(Stage.of(name, spec))
        return made

    def export(self, target: str, input_identity: str, splits: DataSplits) -> Stage:
        """A measured file of the model that the stage ``input_identity`` made."""
        config = self.targets[target].config
        spec = export_spec(
            input_identity=input_identity,
            classes=splits.classes,
            target=config,
            machine=machine(),
            made_by=sources(targets_of(config) | set(MEASURING), MEASURING_ALONE),
        )
        return Stage.of(f"export {target}", spec)

    def timing(self, exports: Sequence[str]) -> Stage:
        """The times of the files that the stages ``exports`` wrote, taken in turns."""
        spec = timing_spec(exports=exports, clock=self.clock, machine=machine(), made_by=sources(TIMING))
        return Stage.of("timing", spec)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"model.weights: there is no file {path}")
    return path.read_bytes()
