"""All that determines an experiment's results, and from it the identity of every stage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from src.contracts import DataSource, DataSplits, InputError, Method, ModelBuilder, Target
from src.data.images import checksum
from src.metrics.board import Board
from src.metrics.machine import machine
from src.metrics.timing import Clock
from src.stages.identity import files_of, identity, sources, targets_of
from src.stages.specs import baseline_spec, export_spec, step_spec, timing_spec
from src.training.recipe import Compute, Recipe

T = TypeVar("T")
# What leads a stage's making; their imports are among those below.
LEADING = ("src.experiment", "src.rehearsal", "src.metrics.layers")
TRAINING = ("src.training.fit", "src.data.batches", "src.models.build", "src.models.weights", "src.primitives.keeping")
MEASURING = ("src.metrics.rows", "src.metrics.accuracy", "src.metrics.graph", "src.metrics.size")
TIMING = ("src.metrics.timing",)


@dataclass(frozen=True)
class Part(Generic[T]):
    """An object and the resolved config that made it."""

    value: T
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """What is to be made, or found again.

    Attributes:
        name: ``baseline``, or the step's.
        spec: All that determines it.
        identity: Its hash.
    """

    name: str
    spec: Mapping[str, Any]
    identity: str


@dataclass(frozen=True)
class Plan:
    """All that determines an experiment's results.

    Attributes:
        name: The experiment's.
        variant: What result rows call the compressed model; ``baseline`` where there is no step.
        seed: Of weights, batch order and whatever a method draws.
        data, model, training: What the baseline is made of.
        model_name: What people call the network.
        weights: A file of trained weights that are the baseline; None to train it.
        compute: Where numbers are computed.
        steps: Methods by step name, in order.
        targets: By name; each file is exported for each of them.
        clock: How files are timed.
        board: What is to run them in the end.
    """

    name: str
    variant: str
    seed: int
    data: Part[DataSource]
    model: Part[ModelBuilder]
    model_name: str
    weights: Path | None
    training: Part[Recipe]
    compute: Compute
    steps: Mapping[str, Part[Method]]
    targets: Mapping[str, Part[Target]]
    clock: Clock
    board: Board

    def stages(self, splits: DataSplits) -> list[Stage]:
        """The baseline and each step, in order; known before any work, since each is named by what determines it."""
        weights_sha256 = hashlib.sha256(_read(self.weights)).hexdigest() if self.weights else None
        loss = targets_of(self.training.config.get("loss", {}))
        entries = targets_of(self.data.config) | targets_of(self.model.config) | set(TRAINING)
        spec = baseline_spec(
            data=self.data.config,
            checksum=splits.checksum,
            model=self.model.config,
            training=self.training.config,
            weights_sha256=weights_sha256,
            compute=self.compute,
            seed=self.seed,
            made_by=sources(entries | (loss if self.weights else targets_of(self.training.config)), LEADING),
        )
        made = [Stage("baseline", spec, identity(spec))]
        for name, step in self.steps.items():
            spec = step_spec(
                input_identity=made[-1].identity,
                calibration=checksum(splits.calibration),
                method=step.config,
                files=files_of(step.config),
                loss=self.training.config.get("loss", {}),
                compute=self.compute,
                seed=self.seed,
                made_by=sources(targets_of(step.config) | loss | set(TRAINING), LEADING),
            )
            made.append(Stage(name, spec, identity(spec)))
        return made

    def export(self, target: str, input_identity: str, splits: DataSplits) -> Stage:
        """A measured file of what the stage ``input_identity`` made."""
        config = self.targets[target].config
        spec = export_spec(
            input_identity=input_identity,
            classes=splits.classes,
            target=config,
            machine=machine(),
            made_by=sources(targets_of(config) | set(MEASURING)),
        )
        return Stage(f"export {target}", spec, identity(spec))

    def timing(self, exports: Sequence[str]) -> Stage:
        """The times of the files that the stages ``exports`` wrote, taken in turns."""
        spec = timing_spec(exports=exports, clock=self.clock, machine=machine(), made_by=sources(TIMING))
        return Stage("timing", spec, identity(spec))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"model.weights: there is no file {path}")
    return path.read_bytes()
