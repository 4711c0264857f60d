"""One experiment on real objects: train or restore, compress, fine-tune, export, measure, track."""

from __future__ import annotations

import copy
import datetime
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from src.console import Report, clock
from src.contracts import (
    Context,
    DataSource,
    DataSplits,
    Epoch,
    ImageSet,
    InputError,
    Loss,
    Method,
    ModelBuilder,
    ModelCard,
    Row,
    RunDescription,
    StepCallback,
    StructuralMethod,
    Target,
    Tracker,
    first_line,
)
from src.data.batches import (
    TensorBatches,
    calibration_batches,
    evaluation_batches,
    example_image,
    training_batches,
)
from src.data.images import checksum
from src.metrics import graph as counted
from src.metrics.accuracy import file_accuracy, torch_accuracy
from src.metrics.latency import latency
from src.metrics.layers import describe_layers
from src.metrics.machine import machine
from src.metrics.size import sha256, size_bytes, size_gzip_bytes
from src.models.build import build_model, check_fit
from src.models.weights import load_weights, save_weights
from src.stages.identity import identity, sources, targets_of
from src.stages.specs import baseline_spec, export_spec, step_spec
from src.stages.store import WEIGHTS, StageStore
from src.training.fit import Fitted, fit, use_compute
from src.training.recipe import Compute, Recipe

log = logging.getLogger(__name__)
T = TypeVar("T")
BATCH = 500
TRAINING = ("src.training.fit", "src.data.batches", "src.models.build", "src.models.weights")
MEASURING = ("src.metrics.accuracy", "src.metrics.latency", "src.metrics.graph", "src.metrics.size")


@dataclass(frozen=True)
class Part(Generic[T]):
    """An object and the resolved config that made it."""

    value: T
    config: Mapping[str, Any]


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


@dataclass(frozen=True)
class Made:
    """A model and the stage it came from.

    Attributes:
        identity: Of the stage.
        model: In eval mode, on the CPU.
        record: What ``stage.json`` says.
        structures: For each step that changed the structure, its method and what rebuilds it.
    """

    identity: str
    model: nn.Module
    record: Mapping[str, Any]
    structures: tuple[tuple[StructuralMethod, Mapping[str, Any]], ...] = ()


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
        self._told: set[tuple[str, int]] = set()

    def run(self) -> list[Row]:
        """Return a row for each (variant, target), the baseline's first.

        Raises:
            InputError: Something that the user gave does not fit; nothing was trained for it.
            TrackingError: Nothing answers at the tracking address before work begins.
        """
        plan = self.plan
        use_compute(plan.compute)  # first of all: threads that a computation starts inherit it
        splits = plan.data.value.load()
        build_model(plan.model.value, splits, plan.seed)  # a misfit must not cost a training
        self.tracker.start(RunDescription(plan.name, plan.variant, plan.model_name, plan.seed, splits))
        self.report.begin(plan.name, plan.variant, plan.model_name, splits, plan.seed)
        made = [self._baseline(splits)]
        for name, step in plan.steps.items():
            made.append(self._step(name, step, made[-1], splits))
        started, all_found = clock(), True
        rows: list[Row] = []
        variants = [("baseline", made[0])] + ([(plan.variant, made[-1])] if plan.steps else [])
        for variant, result in variants:
            for target_name, target in plan.targets.items():
                row, found = self._measure(variant, result, target_name, target, splits)
                all_found &= found
                rows.append(row)
        base_sizes = {row.target: row.size_bytes for row in rows if row.variant == "baseline"}
        rows = [replace(row, compression_ratio=base_sizes[row.target] / row.size_bytes) for row in rows]
        self.report.end(clock() - started, all_found)
        return rows

    # Stages -------------------------------------------------------------------------------------------

    def _baseline(self, splits: DataSplits) -> Made:
        plan, started = self.plan, clock()
        weights_sha256 = hashlib.sha256(_read(plan.weights)).hexdigest() if plan.weights else None
        entries = targets_of(plan.data.config) | targets_of(plan.model.config)
        entries |= set(TRAINING) | (set() if plan.weights else targets_of(plan.training.config))
        spec = baseline_spec(
            data=plan.data.config,
            checksum=splits.checksum,
            model=plan.model.config,
            training=plan.training.config,
            weights_sha256=weights_sha256,
            compute=plan.compute,
            seed=plan.seed,
            made_by=sources(entries),
        )
        name = identity(spec)
        with self.store.hold(name, self.folder) as folder:
            model = build_model(plan.model.value, splits, plan.seed)
            record = self.store.find(name)
            if record is not None:
                load_weights(model, folder / WEIGHTS)
                found = True
            else:
                found, fitted = False, None
                if plan.weights:
                    load_weights(model, plan.weights)
                    check_fit(model, splits)
                else:
                    self._check_export(model, splits)
                    fitted = self._fit("baseline", model, splits, plan.training.value, folder / "training.ckpt")
                record = self._finish(
                    name,
                    spec,
                    model.eval(),
                    folder,
                    [fitted] if fitted else [],
                    splits,
                    layers=describe_layers(model, {}),
                )
        self._replay("baseline", record)
        self.report.stage("baseline", name, found, clock() - started, record["validation_accuracy"])
        return Made(name, model.eval(), record)

    def _check_export(self, model: nn.Module, splits: DataSplits) -> None:
        """Export the untrained network for each target: what cannot be exported must not cost a training."""
        card = _card(splits, "")
        for name, target in self.plan.targets.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"model.{target.value.ending}"
                try:
                    target.value.export(copy.deepcopy(model), example_image(splits), path, card)
                except ModuleNotFoundError as error:
                    raise InputError(
                        f"target.{name} needs {error.name}, which is not installed: pip install '.[{name}]'"
                    ) from error
                except Exception as error:  # exporters raise types of their own
                    raise InputError(f"target.{name}: the network cannot be exported: {first_line(error)}") from error

    def _step(self, name: str, step: Part[Method], before: Made, splits: DataSplits) -> Made:
        plan, method, started = self.plan, step.value, clock()
        spec = step_spec(
            input_identity=before.identity,
            calibration=checksum(splits.calibration),
            method=step.config,
            loss=plan.training.config.get("loss", {}),
            compute=plan.compute,
            seed=plan.seed,
            made_by=sources(targets_of(step.config) | set(TRAINING)),
        )
        stage = identity(spec)
        with self.store.hold(stage, self.folder) as folder:
            record = self.store.find(stage)
            found = record is not None
            if record is None:
                model, record = self._compress(name, method, before, splits, folder, stage, spec)
            structures = before.structures
            if isinstance(method, StructuralMethod):
                structures = (*structures, (method, record["structure"]))
            if found:
                model = build_model(plan.model.value, splits, plan.seed)
                for changed_by, structure in structures:
                    model = changed_by.rebuild(model, structure)
                load_weights(model, folder / WEIGHTS)
        self._replay(name, record)
        self.report.stage(name, stage, found, clock() - started, record["validation_accuracy"])
        return Made(stage, model.eval(), record, structures)

    def _compress(
        self,
        name: str,
        method: Method,
        before: Made,
        splits: DataSplits,
        folder: Path,
        stage: str,
        spec: Mapping[str, Any],
    ) -> tuple[nn.Module, dict[str, Any]]:
        fits: list[Fitted] = []
        context = self._context(name, splits, folder, fits)
        try:
            model = method.compress(copy.deepcopy(before.model), context).eval()
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        check_fit(model, splits)
        structure = None
        if isinstance(method, StructuralMethod):
            structure = method.structure(model)
        layers = describe_layers(model, method.stored_weights(model) if isinstance(method, StructuralMethod) else {})
        record = self._finish(
            stage, spec, model, folder, fits, splits, layers=layers, structure=structure, before=before.record
        )
        return model, record

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

    def _context(self, label: str, splits: DataSplits, folder: Path, fits: list[Fitted]) -> Context:
        def fine_tune(
            model: nn.Module, recipe: Any, callbacks: Sequence[StepCallback] = (), loss: Loss | None = None
        ) -> None:
            checkpoint = folder / f"fine_tune_{len(fits)}.ckpt"
            before = sum(len(fitted.epochs) for fitted in fits)
            fits.append(self._fit(label, model, splits, recipe, checkpoint, callbacks, loss, epochs_before=before))

        torch.manual_seed(self.plan.seed)
        return Context(
            calibration_batches(splits), self.plan.training.value.loss, example_image(splits), self.plan.seed, fine_tune
        )

    def _finish(
        self,
        name: str,
        spec: Mapping[str, Any],
        model: nn.Module,
        folder: Path,
        fits: Sequence[Fitted],
        splits: DataSplits,
        *,
        layers: Sequence[Mapping[str, Any]],
        structure: Mapping[str, Any] | None = None,
        before: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        save_weights(model, folder / WEIGHTS)
        kept = before["weights_kept"] if before else "as given"
        validation = None
        if fits:
            last = fits[-1]
            kept = f"{last.keep}, epoch {last.kept_epoch + 1} of {len(last.epochs)}"
            validation = last.validation_accuracy
        record = {
            "kind": spec["kind"],
            "spec": dict(spec),
            "weights_kept": kept,
            "validation_accuracy": validation,
            "calibration": {"images": len(splits.calibration), "sha256": checksum(splits.calibration)},
            "epochs": [asdict(epoch) for fitted in fits for epoch in fitted.epochs],
            "resumed_epochs": [fitted.resumed_epoch for fitted in fits],
            "layers": list(layers),
            "structure": structure,
        }
        self.store.finish(name, record)
        return record

    def _replay(self, label: str, record: Mapping[str, Any]) -> None:
        """Tell the tracker of the stage's epochs that it has not heard of: found again, or from before a stop."""
        for at, epoch in enumerate(record["epochs"]):
            if (label, at) not in self._told:
                self.tracker.epoch(label, replace(Epoch(**epoch), epoch=at))

    # Exporting and measuring --------------------------------------------------------------------------

    def _measure(
        self, variant: str, made: Made, target_name: str, target: Part[Target], splits: DataSplits
    ) -> tuple[Row, bool]:
        spec = export_spec(
            input_identity=made.identity,
            classes=splits.classes,
            target=target.config,
            machine=machine(),
            made_by=sources(targets_of(target.config) | set(MEASURING)),
        )
        name, ending = identity(spec), target.value.ending
        with self.store.hold(name, self.folder) as folder:
            record = self.store.find(name)
            found = record is not None
            if record is None:
                record = {
                    "kind": "export",
                    "spec": spec,
                    **self._export(made, target_name, target.value, folder, splits),
                }
                self.store.finish(name, record)
            artifact = f"{variant}.{target_name}.{ending}"
            for part in record["parts"]:
                _link(folder / part, (self.folder / artifact).with_suffix(Path(part).suffix))
        fields = {**record["row"], "target": target_name, "weights_kept": made.record["weights_kept"]}
        return Row(**{**fields, "variant": variant, "artifact": artifact, "model": self.plan.model_name}), found

    def _export(self, made: Made, target_name: str, target: Target, folder: Path, splits: DataSplits) -> dict[str, Any]:
        example = example_image(splits)
        plain, integer = made.model, False
        if made.structures:
            method = made.structures[-1][0]
            integer = any(bits <= 8 for _, bits in method.stored_weights(plain).values())
            plain = method.lower(plain, example)
        card = _card(splits, made.identity)
        parts = target.export(plain, example, folder / f"model.{target.ending}", card)
        session = target.load(parts[0], threads=self.plan.compute.threads)
        classes = len(splits.classes)

        def over(images: ImageSet) -> TensorBatches:
            return evaluation_batches(splits, images, batch_size=BATCH)

        on_test = file_accuracy(session, over(splits.test), classes)
        on_validation = file_accuracy(session, over(splits.validation), classes)
        timed = latency(target.load(parts[0], threads=1), example.numpy())
        counts, unavailable = _counts(target, parts[0])
        row = Row(
            variant="",
            target=target_name,
            data=splits.name,
            model=self.plan.model_name,
            runtime=target.runtime,
            precision=target.precision(integer),
            artifact="",
            sha256=sha256(parts),
            identity=made.identity,
            weights_kept="",
            accuracy=on_test.overall,
            accuracy_per_class=dict(zip(splits.classes, on_test.per_class, strict=True)),
            accuracy_validation=on_validation.overall,
            accuracy_torch=torch_accuracy(made.model, over(splits.test), classes).overall,
            size_bytes=size_bytes(parts),
            size_gzip_bytes=size_gzip_bytes(parts),
            latency_ms_p50=timed.p50_ms,
            latency_ms_p95=timed.p95_ms,
            **counts,
            unavailable=unavailable,
            measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            machine=machine(),
        )
        return {"parts": [part.name for part in parts], "row": asdict(row)}


def _counts(target: Target, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What is counted in the file's graph; a graph that cannot be read gives None and the reason."""
    columns = {
        "parameters": counted.parameters,
        "nonzero_parameters": counted.nonzero_parameters,
        "macs": counted.macs,
        "peak_activation_bytes": counted.peak_activation_bytes,
    }
    try:
        graph = target.graph(path)
        return {name: count(graph) for name, count in columns.items()}, {}
    except Exception as error:  # a finished training must not be lost for a count
        log.exception("the graph of %s cannot be counted", path)
        return dict.fromkeys(columns), dict.fromkeys(columns, f"the graph cannot be counted: {first_line(error)}")


def _card(splits: DataSplits, stage: str) -> ModelCard:
    return ModelCard(splits.classes, splits.image_shape, splits.mean, splits.std, stage)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"model.weights: there is no file {path}")
    return path.read_bytes()


def _link(source: Path, to: Path) -> None:
    """Link ``source`` as ``to``; copy it where the two are on different disks."""
    to.unlink(missing_ok=True)
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)
