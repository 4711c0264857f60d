"""One experiment on real objects: train or restore, compress, fine-tune, export, measure, track."""

from __future__ import annotations

import copy
import datetime
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.console import Report, clock
from src.contracts import (
    Context,
    DataSplits,
    Epoch,
    ImageSet,
    InputError,
    Loss,
    Lowered,
    Method,
    NotExportableError,
    QuantizingMethod,
    Refused,
    Row,
    RunDescription,
    StepCallback,
    StructuralMethod,
    Target,
    Tracker,
)
from src.data.batches import (
    TensorBatches,
    calibration_batches,
    evaluation_batches,
    example_image,
    training_batches,
)
from src.data.images import checksum
from src.methods.chain import undone
from src.metrics.accuracy import torch_accuracy
from src.metrics.layers import describe_layers
from src.metrics.rows import bits_per_weight, measure, measure_times, measure_untested, with_times
from src.metrics.timing import Timing
from src.models.build import build_model, check_fit
from src.models.weights import load_weights, save_weights
from src.plan import Part, Plan, Stage
from src.primitives.keeping import Keep
from src.rehearsal import lowered, rehearse, taught, written
from src.stages.identity import targets_of
from src.stages.store import WEIGHTS, StageStore
from src.training.fit import Fitted, fit, use_compute
from src.training.recipe import Recipe

log = logging.getLogger(__name__)
BATCH = 500


@dataclass(frozen=True)
class Made:
    """A model and the stage it came from.

    Attributes:
        identity: Of the stage.
        model: In eval mode, on the CPU.
        record: What ``stage.json`` says.
        structures: For each step that changed the structure, its method and what rebuilds it.
        method: The last step's; None for the baseline.
    """

    identity: str
    model: nn.Module
    record: Mapping[str, Any]
    structures: tuple[tuple[StructuralMethod, Mapping[str, Any]], ...] = ()
    method: Method | None = None


@dataclass(frozen=True)
class Exported:
    """A file of the run.

    Attributes:
        row: All but its times.
        target: Its name.
        identity: Of the export's stage.
        path: Of its first part.
        found: Whether it was found again.
    """

    row: Row
    target: str
    identity: str
    path: Path
    found: bool


class Experiment:
    """Runs a plan; every stage is found again where it was made before.

    Args:
        plan: What to do.
        store: Where stages live.
        tracker: Told of everything.
        report: Tells a person.
        folder: Of the run; exported files are linked into it.
    """

    def __init__(self, plan: Plan, *, store: StageStore, tracker: Tracker, report: Report, folder: Path) -> None:
        self.plan, self.store, self.tracker, self.report, self.folder = plan, store, tracker, report, folder
        self.refused: list[Refused] = []
        self._told: set[tuple[str, int]] = set()

    def run(self) -> list[Row]:
        """Return a row for each (variant, target), the baseline's first; ``refused`` names those without a file.

        Raises:
            InputError: Something that the user gave does not fit; nothing was trained for it.
            TrackingError: Nothing answers at the tracking address before work begins.
        """
        plan = self.plan
        splits = self._start()
        made = self.make(splits)
        started = clock()
        variants = [("baseline", made[0])] + ([(plan.variant, made[-1])] if plan.steps else [])
        files: list[Exported] = []
        for variant, result in variants:
            for target in plan.targets:
                try:
                    files.append(self._file(variant, result, target, splits))
                except NotExportableError as error:
                    self.refused.append(Refused(variant, target, str(error)))
        if all(file.row.variant != variants[-1][0] for file in files):
            raise InputError(next(each.reason for each in self.refused if each.variant == variants[-1][0]))
        rows, timed_before = self._timed(files, splits)
        for remark in dict.fromkeys(remark for file in files for remark in self._remarks(file)):
            self.report.line(remark)
        self.report.end(clock() - started, timed_before and all(file.found for file in files))
        return rows

    def baseline(self) -> tuple[DataSplits, Made]:
        """The data and the baseline, found again or trained; nothing else is done."""
        splits = self._start()
        return splits, self.make(splits)[0]

    def candidate(self, splits: DataSplits, *, timed: bool) -> dict[str, dict[str, Any]]:
        """Make the compressed model and measure its file for each target without the test set: a search's trial.

        Args:
            splits: The data, loaded once for many trials.
            timed: Whether latency is measured.

        Returns:
            Columns by target name; what cannot be counted is None.
        """
        use_compute(self.plan.compute)
        made = self.make(splits)[-1]
        columns = {}
        for name, part in self.plan.targets.items():
            with tempfile.TemporaryDirectory() as folder:
                parts, result = self._write(made, name, Path(folder), splits)
                self.plan.board.check(part.value, parts)
                session = part.value.load(parts[0], threads=self.plan.compute.threads)
                measured, _ = measure_untested(
                    part.value, parts, session, splits, _over(splits), integer=result.integer
                )
                if timed:
                    alone = replace(self.plan.clock, largest_batch=1)
                    measured |= measure_times([(part.value, parts[0])], splits, _over(splits), alone)[0].columns()
            columns[name] = {**measured, "bits_per_weight": bits_per_weight(made.record["layers"])}
        return columns

    def _start(self) -> DataSplits:
        plan = self.plan
        use_compute(plan.compute)  # first of all: threads that a computation starts inherit it
        splits = plan.data.value.load()
        build_model(plan.model.value, splits, plan.seed)  # a misfit must not cost a training
        self.tracker.start(RunDescription(plan.name, plan.variant, plan.model_name, plan.seed, splits))
        self.report.begin(plan.name, plan.variant, plan.model_name, splits, plan.seed)
        for remark in undone({name: step.value for name, step in plan.steps.items()}):
            self.report.line(remark)
        return splits

    # Stages -------------------------------------------------------------------------------------------

    def make(self, splits: DataSplits) -> list[Made]:
        """The baseline and each step's result, found again or made."""
        stages = self.plan.stages(splits)
        refreshed = self.store.refresh_before is not None
        if any((refreshed or self.store.find(stage.identity) is None) and self._trains(stage) for stage in stages):
            rehearse(self.plan, splits)
        made = [self._baseline(stages[0], splits)]
        for stage, step in zip(stages[1:], self.plan.steps.values(), strict=True):
            made.append(self._step(stage, step, made[-1], splits))
        return made

    def _trains(self, stage: Stage) -> bool:
        if stage.name == "baseline":
            return self.plan.weights is None
        return f"{Recipe.__module__}.{Recipe.__name__}" in targets_of(stage.spec["method"])

    def _baseline(self, stage: Stage, splits: DataSplits) -> Made:
        plan, started = self.plan, clock()
        with self.store.hold(stage.identity, self.folder) as folder:
            model = build_model(plan.model.value, splits, plan.seed)
            record = self.store.find(stage.identity)
            found = record is not None
            if record is not None:
                load_weights(model, folder / WEIGHTS)
            else:
                fits: list[Fitted] = []
                if plan.weights:
                    load_weights(model, plan.weights)
                    check_fit(model, splits)
                else:
                    recipe, checkpoint = plan.training.value, folder / "training.ckpt"
                    with taught(recipe.loss, model, model, splits) as loss:
                        fits.append(self._fit("baseline", model, splits, recipe, checkpoint, loss=loss))
                record = self._finish(stage, model.eval(), folder, fits, splits, describe_layers(model, {}))
        self._replay("baseline", record)
        self.report.stage("baseline", stage.identity, found, clock() - started, record["validation_accuracy"])
        return Made(stage.identity, model.eval(), record)

    def _step(self, stage: Stage, step: Part[Method], before: Made, splits: DataSplits) -> Made:
        plan, method, started = self.plan, step.value, clock()
        with self.store.hold(stage.identity, self.folder) as folder:
            record = self.store.find(stage.identity)
            found = record is not None
            if record is None:
                model, record = self._compress(stage, method, before, splits, folder)
            structures = before.structures
            if isinstance(method, StructuralMethod):
                structures = (*structures, (method, record["structure"]))
            if found:
                model = build_model(plan.model.value, splits, plan.seed)
                for changed_by, structure in structures:
                    model = changed_by.rebuild(model, structure)
                load_weights(model, folder / WEIGHTS)
        self._replay(stage.name, record)
        self.report.stage(stage.name, stage.identity, found, clock() - started, record["validation_accuracy"])
        return Made(stage.identity, model.eval(), record, structures, method)

    def _compress(
        self, stage: Stage, method: Method, before: Made, splits: DataSplits, folder: Path
    ) -> tuple[nn.Module, dict[str, Any]]:
        fits: list[Fitted] = []
        context = self._context(stage.name, before.model, splits, folder, fits)
        try:
            model = method.compress(copy.deepcopy(before.model), context).eval()
        except ValueError as error:
            raise InputError(f"{stage.name}: {error}") from error
        check_fit(model, splits)
        structure = method.structure(model) if isinstance(method, StructuralMethod) else None
        stored = method.stored_weights(model) if isinstance(method, QuantizingMethod) else {}
        layers = describe_layers(model, stored)
        empty = [layer["name"] for layer in layers if layer["sparsity"] == 1]
        if empty:
            self.report.line(f"{stage.name} leaves no weight of {', '.join(empty)}: its outputs are the same for all")
        return model, self._finish(stage, model, folder, fits, splits, layers, structure, before.record)

    def _fit(
        self,
        label: str,
        model: nn.Module,
        splits: DataSplits,
        recipe: Recipe,
        checkpoint: Path,
        callbacks: Sequence[StepCallback] = (),
        loss: Loss | None = None,
        *,
        epochs_before: int = 0,
    ) -> Fitted:
        def tell(epoch: Epoch) -> None:
            log.info("%s %s", label, epoch)
            self.tracker.epoch(label, replace(epoch, epoch=epochs_before + epoch.epoch))
            self._told.add((label, epochs_before + epoch.epoch))

        compute = self.plan.compute
        train = training_batches(splits, recipe.batch_size, seed=self.plan.seed, device=compute.device)
        return fit(
            model,
            train,
            evaluation_batches(splits, splits.validation, batch_size=BATCH, device=compute.device),
            recipe,
            compute,
            seed=self.plan.seed,
            checkpoint=checkpoint,
            progress=self.report.bar(label, tell),
            callbacks=callbacks,
            loss=loss,
        )

    def _context(self, label: str, before: nn.Module, splits: DataSplits, folder: Path, fits: list[Fitted]) -> Context:
        def fine_tune(
            model: nn.Module, recipe: Any, callbacks: Sequence[StepCallback] = (), loss: Loss | None = None
        ) -> None:
            checkpoint = folder / f"fine_tune_{len(fits)}.ckpt"
            done = sum(len(fitted.epochs) for fitted in fits)
            every = [*callbacks, Keep(model)]
            with taught(loss or recipe.loss, model, before, splits) as bound:
                fits.append(self._fit(label, model, splits, recipe, checkpoint, every, bound, epochs_before=done))

        torch.manual_seed(self.plan.seed)
        return Context(
            calibration_batches(splits), self.plan.training.value.loss, example_image(splits), self.plan.seed, fine_tune
        )

    def _finish(
        self,
        stage: Stage,
        model: nn.Module,
        folder: Path,
        fits: Sequence[Fitted],
        splits: DataSplits,
        layers: Sequence[Mapping[str, Any]],
        structure: Mapping[str, Any] | None = None,
        before: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        save_weights(model, folder / WEIGHTS)
        kept = before["weights_kept"] if before else "as given"
        if fits:
            kept = f"{fits[-1].keep}, epoch {fits[-1].kept_epoch + 1} of {len(fits[-1].epochs)}"
        # Of what is kept, not of what was trained: a method may change weights after their last epoch.
        shown = evaluation_batches(splits, splits.validation, batch_size=BATCH)
        validation = torch_accuracy(model, shown, len(splits.classes)).overall
        record = {
            "kind": stage.spec["kind"],
            "spec": dict(stage.spec),
            "weights_kept": kept,
            "validation_accuracy": validation,
            "calibration": {"images": len(splits.calibration), "sha256": checksum(splits.calibration)},
            "epochs": [asdict(epoch) for fitted in fits for epoch in fitted.epochs],
            "resumed_epochs": [fitted.resumed_epoch for fitted in fits],
            "layers": list(layers),
            "structure": structure,
        }
        self.store.finish(stage.identity, record)
        return record

    def _replay(self, label: str, record: Mapping[str, Any]) -> None:
        """Tell the tracker of the stage's epochs that it has not heard of: found again, or from before a stop."""
        for at, epoch in enumerate(record["epochs"]):
            if (label, at) not in self._told:
                self.tracker.epoch(label, replace(Epoch(**epoch), epoch=at))

    # Exporting and measuring --------------------------------------------------------------------------

    def _file(self, variant: str, made: Made, target: str, splits: DataSplits) -> Exported:
        """A file in the run's folder, found again or written and measured."""
        stage, ending = self.plan.export(target, made.identity, splits), self.plan.targets[target].value.ending
        with self.store.hold(stage.identity, self.folder) as folder:
            record = self.store.find(stage.identity)
            found = record is not None
            if record is None:
                record = {"kind": "export", "spec": stage.spec, **self._export(made, target, folder, splits)}
                self.store.finish(stage.identity, record)
            if variant != "baseline" or not self.plan.steps:
                self.plan.board.check(self.plan.targets[target].value, [folder / part for part in record["parts"]])
            artifact = f"{variant}.{target}.{ending}"
            for part in record["parts"]:
                _link(folder / part, (self.folder / artifact).with_suffix(Path(part).suffix))
        fields = {**record["row"], "target": target, "weights_kept": made.record["weights_kept"]}
        row = Row(**{**fields, "variant": variant, "artifact": artifact, "model": self.plan.model_name})
        return Exported(row, target, stage.identity, folder / record["parts"][0], found)

    def _export(self, made: Made, target_name: str, folder: Path, splits: DataSplits) -> dict[str, Any]:
        target = self.plan.targets[target_name].value
        parts, result = self._write(made, target_name, folder, splits)
        row = measure(
            target,
            parts,
            made.model,
            result,
            splits,
            _over(splits),
            bits_per_weight=bits_per_weight(made.record["layers"]),
            identity=made.identity,
            threads=self.plan.compute.threads,
        )
        return {"parts": [part.name for part in parts], "row": asdict(row)}

    def _write(self, made: Made, target: str, folder: Path, splits: DataSplits) -> tuple[tuple[Path, ...], Lowered]:
        """The file, all its parts, and what it was written from."""
        result = lowered(made.model, made.method, splits)
        part = self.plan.targets[target].value
        return written(target, part, result, splits, folder / f"model.{part.ending}", made.identity), result

    def _timed(self, files: Sequence[Exported], splits: DataSplits) -> tuple[list[Row], bool]:
        """The rows with times and ratios to the baseline's, and whether they were found again."""
        timed = [file for file in files if not getattr(self._target(file), "stand_in", False)]
        timings: dict[str, Timing] = {}
        found, at = True, None
        if timed:
            stage = self.plan.timing([file.identity for file in timed])
            with self.store.hold(stage.identity, self.folder):
                record = self.store.find(stage.identity)
                found = record is not None
                if record is None:
                    paths = [(self._target(file), file.path) for file in timed]
                    taken = measure_times(paths, splits, _over(splits), self.plan.clock)
                    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                    record = {"kind": "timing", "spec": stage.spec, "timings": [asdict(each) for each in taken]}
                    record["timed_at"] = now
                    self.store.finish(stage.identity, record)
            each = (Timing(**{**taken, "rounds_ms": tuple(taken["rounds_ms"])}) for taken in record["timings"])
            timings, at = dict(zip((file.row.artifact for file in timed), each, strict=True)), record["timed_at"]
        bases = {file.target: file.row for file in files if file.row.variant == "baseline"}
        return [with_times(file.row, bases.get(file.target), timings, at) for file in files], found

    def _remarks(self, file: Exported) -> list[str]:
        """What the board and the target say of a file."""
        of_target = getattr(self._target(file), "remarks", None)
        return [
            *self.plan.board.remarks(file.row.precision),
            *(f"{file.row.artifact}: {line}" for line in (of_target(file.path) if of_target else [])),
        ]

    def _target(self, file: Exported) -> Target:
        return self.plan.targets[file.target].value


def _over(splits: DataSplits) -> Callable[[ImageSet], TensorBatches]:
    """Batches over a part of the data."""
    return lambda images: evaluation_batches(splits, images, batch_size=BATCH)


def _link(source: Path, to: Path) -> None:
    """Link ``source`` as ``to``; copy it where the two are on different disks."""
    to.unlink(missing_ok=True)
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)
