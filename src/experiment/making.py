"""The stages of an experiment: the baseline, then each step, found again or made."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.contracts import (
    Compressed,
    Console,
    Context,
    DataSplits,
    Epoch,
    InputContract,
    InputError,
    Loss,
    Method,
    QuantizingMethod,
    Recipe,
    StepCallback,
    TrackedRun,
    TrainingLoop,
)
from src.data.batches import calibration_batches, evaluation_batches, example_image, training_batches
from src.data.images import checksum
from src.experiment.claims import checked
from src.experiment.plan import Part, Plan
from src.experiment.rehearsal import rehearse
from src.metrics.accuracy import torch_accuracy
from src.metrics.layers import describe_layers
from src.models.build import build_model, check_fit
from src.models.outputs import without_auxiliary
from src.models.weights import load_weights, save_weights
from src.primitives.keeping import Keep
from src.primitives.layers import weight_names
from src.stages.identity import targets_of
from src.stages.specs import Stage
from src.stages.store import WEIGHTS, StageStore
from src.training.fit import Fitted, fit, use_compute
from src.training.losses import taught

log = logging.getLogger(__name__)
BATCH = 500  # images that a network is evaluated on at once
RECIPE = "src.training.recipe.Recipe"  # stands in the config of whatever trains


@dataclass(frozen=True)
class Made:
    """A model and the stage it came from.

    Attributes:
        identity: Identity of the stage.
        model: The network in eval mode, on the CPU.
        record: What ``stage.json`` says.
        structures: Each method that changed the structure, with what its ``rebuild`` needs.
        method: The method of the last step; None for the baseline.
    """

    identity: str
    model: nn.Module
    record: Mapping[str, Any]
    structures: tuple[tuple[Method, Mapping[str, Any]], ...] = ()
    method: Method | None = None


def prepare(plan: Plan) -> DataSplits:
    """Load the data and build the network once, so that a misfit costs no training."""
    use_compute(plan.compute)  # first of all: threads that a computation starts inherit it
    splits = plan.data.value.load()
    model = build_model(plan.model.value, splits, plan.seed)
    contract = InputContract.of(model)
    # Pretrained weights expect their own normalization.
    if contract is not None and contract.mean is not None and contract.std is not None:
        return replace(splits, mean=contract.mean, std=contract.std)
    return splits


def weights_of(plan: Plan, splits: DataSplits) -> list[str]:
    """The names of the weights of the plan's network that methods work on, in the order of the network."""
    return weight_names(build_model(plan.model.value, splits, plan.seed))


class StageMaker:
    """Makes the stages of a plan, or finds them again.

    Args:
        plan: What to make.
        splits: The data.
        store: Where stages live.
        tracked: The run that is told of each epoch.
        console: Tells a person.
        folder: Folder of the run; the store writes down that it names these stages.
    """

    def __init__(
        self, plan: Plan, splits: DataSplits, *, store: StageStore, tracked: TrackedRun, console: Console, folder: Path
    ) -> None:
        self.plan, self.splits, self.store = plan, splits, store
        self.tracked, self.console, self.folder = tracked, console, folder
        self._logged: set[tuple[str, int]] = set()  # epochs that ``tracked`` has heard of, by stage

    def make(self) -> list[Made]:
        """The baseline and each step's result, in order.

        Raises:
            InputError: Something that the user gave does not fit; nothing was trained for it.
        """
        stages = self.plan.stages(self.splits)
        refreshed = self.store.refresh_before is not None
        if any((refreshed or self.store.find(stage.identity) is None) and self._trains(stage) for stage in stages):
            rehearse(self.plan, self.splits)
        made = [self._baseline(stages[0])]
        for stage, step in zip(stages[1:], self.plan.steps.values(), strict=True):
            made.append(self._step(stage, step, made[-1]))
        return made

    def _trains(self, stage: Stage) -> bool:
        return self.plan.trains if stage.name == "baseline" else RECIPE in targets_of(stage.spec["method"])

    def _baseline(self, stage: Stage) -> Made:
        plan, started = self.plan, time.perf_counter()
        with self.store.hold(stage.identity, self.folder) as folder:
            record = self.store.find(stage.identity)
            found = record is not None
            if record is not None:
                model = build_model(plan.model.value, self.splits, plan.seed)
                load_weights(model, folder / WEIGHTS)
            else:
                fits: list[Fitted] = []
                model = build_model(
                    plan.model.value, self.splits, plan.seed, say=self.console.line, auxiliary=plan.trains
                )
                contract = InputContract.of(model)
                departure = contract.departure(self.splits) if contract is not None else None
                if departure is not None:
                    self.console.line(departure)
                if plan.loop is not None:
                    self._own_loop(plan.loop.value, model)
                elif plan.trains:
                    recipe, example = plan.training.value, example_image(self.splits)
                    with taught(recipe.loss, model, model, example) as loss:
                        fits.append(self._fit("baseline", model, recipe, folder / "training.ckpt", loss))
                    without_auxiliary(model, torch.cat([example, example]))
                    model.eval()
                record = self._finish(stage, Compressed(model.eval()), folder, fits, describe_layers(model, {}))
        self._after("baseline", stage, record, found, started)
        return Made(stage.identity, model.eval(), record)

    def _own_loop(self, loop: TrainingLoop, model: nn.Module) -> None:
        """Train by the user's loop, on the CPU unless the loop moves the network."""
        splits, recipe = self.splits, self.plan.training.value
        torch.manual_seed(self.plan.seed)
        loop(
            model.train(),
            training_batches(splits, recipe.batch_size, seed=self.plan.seed),
            evaluation_batches(splits, splits.validation, batch_size=BATCH),
        )
        model.to("cpu").eval()
        without_auxiliary(model, torch.cat([example_image(splits)] * 2))
        check_fit(model, splits)

    def _step(self, stage: Stage, step: Part[Method], before: Made) -> Made:
        started = time.perf_counter()
        with self.store.hold(stage.identity, self.folder) as folder:
            record = self.store.find(stage.identity)
            found = record is not None
            if record is None:
                model, record = self._compress(stage, step.value, before, folder)
            structures = before.structures
            if record["structure"] is not None:
                structures = (*structures, (step.value, record["structure"]))
            if found:
                model = self._rebuilt(structures)
                load_weights(model, folder / WEIGHTS)
        for line in record.get("not_reached", ()):  # records of before have none
            self.console.line(line)
        self._after(stage.name, stage, record, found, started)
        return Made(stage.identity, model.eval(), record, structures, step.value)

    def _rebuilt(self, structures: Sequence[tuple[Method, Mapping[str, Any]]]) -> nn.Module:
        """The network built anew, with the structure that the steps gave it."""
        model = build_model(self.plan.model.value, self.splits, self.plan.seed)
        for method, structure in structures:
            model = method.rebuild(model, structure)
        return model

    def _compress(self, stage: Stage, method: Method, before: Made, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
        fits: list[Fitted] = []
        context = self._context(stage.name, before.model, folder, fits)
        try:
            made = Compressed.of(method.compress(copy.deepcopy(before.model), context))
        except ValueError as error:
            raise InputError(f"{stage.name}: {error}") from error
        model = made.model.eval()
        check_fit(model, self.splits)
        not_reached = checked(stage.name, made, context.example_input)
        stored = method.stored_weights(model) if isinstance(method, QuantizingMethod) else {}
        layers = describe_layers(model, stored)
        empty = [layer["name"] for layer in layers if layer["sparsity"] == 1]
        if empty:
            self.console.line(f"{stage.name} leaves no weight of {', '.join(empty)}: its outputs are the same for all")
        return model, self._finish(stage, made, folder, fits, layers, before.record, not_reached)

    def _context(self, label: str, before: nn.Module, folder: Path, fits: list[Fitted]) -> Context:
        """What a method is given; each of its trainings is added to ``fits``."""
        example = example_image(self.splits)

        def fine_tune(
            model: nn.Module, recipe: Recipe, callbacks: Sequence[StepCallback] = (), loss: Loss | None = None
        ) -> None:
            checkpoint = folder / f"fine_tune_{len(fits)}.ckpt"
            epochs_before = sum(len(fitted.epochs) for fitted in fits)
            every = [*callbacks, Keep(model)]
            with taught(loss or recipe.loss, model, before, example) as bound:
                fits.append(self._fit(label, model, recipe, checkpoint, bound, every, epochs_before))

        torch.manual_seed(self.plan.seed)
        loss = self.plan.training.value.loss
        return Context(calibration_batches(self.splits), loss, example, self.plan.seed, fine_tune)

    def _fit(
        self,
        label: str,
        model: nn.Module,
        recipe: Recipe,
        checkpoint: Path,
        loss: Loss,
        callbacks: Sequence[StepCallback] = (),
        epochs_before: int = 0,
    ) -> Fitted:
        def log_epoch(epoch: Epoch) -> None:
            log.info("%s %s", label, epoch)
            self._log(label, replace(epoch, epoch=epochs_before + epoch.epoch))

        compute, splits = self.plan.compute, self.splits
        return fit(
            model,
            training_batches(splits, recipe.batch_size, seed=self.plan.seed, device=compute.device),
            evaluation_batches(splits, splits.validation, batch_size=BATCH, device=compute.device),
            recipe,
            compute,
            seed=self.plan.seed,
            checkpoint=checkpoint,
            progress=self.console.bar(label, log_epoch),
            callbacks=callbacks,
            loss=loss,
        )

    def _finish(
        self,
        stage: Stage,
        made: Compressed,
        folder: Path,
        fits: Sequence[Fitted],
        layers: Sequence[Mapping[str, Any]],
        before: Mapping[str, Any] | None = None,
        not_reached: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Write the weights and the record of a stage; ``before`` is the record of the stage that it came from."""
        save_weights(made.model, folder / WEIGHTS)
        splits = self.splits
        kept = before["weights_kept"] if before else "as given"
        if fits:
            kept = f"{fits[-1].keep}, epoch {fits[-1].kept_epoch + 1} of {len(fits[-1].epochs)}"
        # The accuracy of what is kept, not of what was trained: a method may change weights after their last epoch.
        batches = evaluation_batches(splits, splits.validation, batch_size=BATCH)
        record = {
            "kind": stage.spec["kind"],
            "spec": dict(stage.spec),
            "weights_kept": kept,
            "validation_accuracy": torch_accuracy(made.model, batches, len(splits.classes)).overall,
            "calibration": {"images": len(splits.calibration), "sha256": checksum(splits.calibration)},
            "epochs": [asdict(epoch) for fitted in fits for epoch in fitted.epochs],
            "resumed_epochs": [fitted.resumed_epoch for fitted in fits],
            "layers": list(layers),
            "structure": made.structure,
            "not_reached": list(not_reached),
        }
        self.store.finish(stage.identity, record)
        return record

    def _after(self, label: str, stage: Stage, record: Mapping[str, Any], found: bool, started: float) -> None:
        """Log the epochs that the tracked run has not heard of (found again, or from before a stop), and say it."""
        for at, epoch in enumerate(record["epochs"]):
            if (label, at) not in self._logged:
                self._log(label, replace(Epoch(**epoch), epoch=at))
        seconds = time.perf_counter() - started
        self.console.stage(label, stage.identity, found, seconds, record["validation_accuracy"])

    def _log(self, label: str, epoch: Epoch) -> None:
        self.tracked.epoch(label, epoch)
        self._logged.add((label, epoch.epoch))
