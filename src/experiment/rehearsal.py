"""An experiment without its trainings: what cannot work must not cost one."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from src.contracts import (
    Compressed,
    Context,
    DataSplits,
    InputError,
    Loss,
    Lowered,
    Method,
    NoEffectError,
    NotExportableError,
    Recipe,
    StepCallback,
)
from src.data.batches import evaluation_batches, example_image
from src.experiment.export import lowered, written
from src.experiment.plan import Plan
from src.models.build import build_model, check_fit
from src.models.weights import load_weights
from src.primitives.keeping import Keep
from src.training.losses import taught

IMAGES = 8
MOMENTS = (0.0, 0.25, 0.5, 0.75, 0.999)  # shares of a fine-tuning at which its callbacks are called


def rehearse(plan: Plan, splits: DataSplits) -> Lowered:
    """Put the untrained network through every step on a few images, training nothing, and export it.

    Returns:
        The result, as exporters take it.

    Raises:
        InputError: A step refuses its settings or the network, no target can hold the result, or the board cannot.
    """
    model = build_model(plan.model.value, splits, plan.seed)
    if plan.weights:
        load_weights(model, plan.weights)
        check_fit(model, splits)
    if plan.steps:
        _try_targets(plan, splits, lowered(model, None, splits), with_board=False)
    if not plan.weights:
        _try_loss(plan, splits, model)
    model, last = _compressed(plan, splits, model)
    result = lowered(model, last, splits)
    _try_targets(plan, splits, result, with_board=True)
    return result


def _try_loss(plan: Plan, splits: DataSplits, model: nn.Module) -> None:
    try:
        with taught(plan.training.value.loss, model, model, example_image(splits)):
            pass
    except ValueError as error:
        raise InputError(f"training.loss.{error}") from error


def _compressed(plan: Plan, splits: DataSplits, model: nn.Module) -> tuple[nn.Module, Method | None]:
    """The network after every step that has an effect on untrained weights, and the last of these steps' methods."""
    last: Method | None = None
    made: set[str] = set()
    for name, step in plan.steps.items():
        method = step.value
        torch.manual_seed(plan.seed)
        try:
            result = method.compress(copy.deepcopy(model), _context(plan, splits, model))
        except NoEffectError as error:  # on trained weights it may have one; the next step takes the network as it is
            if made & set(method.makes):
                raise InputError(f"{name}: {error}; an earlier step has done it") from error
            continue
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        model, last = Compressed.of(result).model.eval(), method
        made = made - set(method.undoes) | set(method.makes)
        check_fit(model, splits)
    return model, last


def _context(plan: Plan, splits: DataSplits, before: nn.Module) -> Context:
    few = splits.calibration.select(torch.arange(min(IMAGES, len(splits.calibration))))
    before = copy.deepcopy(before)
    example = example_image(splits)

    def fine_tune(
        model: nn.Module, recipe: Recipe, callbacks: Sequence[StepCallback] = (), loss: Loss | None = None
    ) -> None:
        every = [*callbacks, Keep(model)]
        model.train()
        with taught(loss or recipe.loss, model, before, example) as bound:
            for moment in MOMENTS:
                for callback in every:
                    callback.before_step(model, moment)
                for images, labels in evaluation_batches(splits, few, batch_size=IMAGES):
                    bound(model(images), labels, images).backward()
                for callback in every:
                    callback.after_backward(model)
                model.zero_grad()
                for callback in every:
                    callback.after_step(model, moment + 1e-3)
        model.eval()

    batches = evaluation_batches(splits, few, batch_size=IMAGES)
    return Context(batches, plan.training.value.loss, example, plan.seed, fine_tune)


def _try_targets(plan: Plan, splits: DataSplits, result: Lowered, *, with_board: bool) -> None:
    """Export for every target; raise InputError if none of them can hold the result, or the board cannot run it."""
    refused = []
    for name, part in plan.targets.items():
        target = part.value
        with tempfile.TemporaryDirectory() as folder:
            try:
                copied = replace(result, model=copy.deepcopy(result.model))
                parts = written(name, target, copied, splits, Path(folder) / f"model.{target.ending}", "")
                if with_board:
                    plan.board.check(target, parts)
            except NotExportableError as error:
                refused.append(error)
    if len(refused) == len(plan.targets):
        raise refused[0]
