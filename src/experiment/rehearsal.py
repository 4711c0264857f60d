"""An experiment without its trainings: what cannot work must not cost one."""

from __future__ import annotations

import copy
import logging
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
    first_line,
)
from src.data.batches import evaluation_batches, example_image
from src.experiment.claims import checked
from src.experiment.export import lowered, written
from src.experiment.plan import Plan
from src.models.build import build_model, check_fit
from src.primitives.keeping import Keep
from src.training.losses import taught

log = logging.getLogger(__name__)
IMAGES = 8
TRAINED = 2  # images in a step of training: the fewest for which a normalization of single pixels is defined
MOMENTS = (0.0, 0.25, 0.5, 0.75, 0.999)  # shares of a fine-tuning at which its callbacks are called


def rehearse(plan: Plan, splits: DataSplits) -> Lowered:
    """Put a copy of the untrained network through every step on a few images, and export and run what comes out.

    Of each training a step or a few are made, on two images; each file is loaded in its runtime and run.

    Returns:
        The result, as exporters take it.

    Raises:
        InputError: The network cannot be trained or gives random outputs, a step refuses its settings or the network,
            no target can hold the result and run it, or the board cannot.
    """
    model = build_model(plan.model.value, splits, plan.seed)
    if plan.steps:
        _try_targets(plan, splits, lowered(model, None, splits), with_board=False)
    if plan.trains and plan.loop is None:
        _try_training(plan, splits, copy.deepcopy(model))
    model, last = _compressed(plan, splits, model)
    result = lowered(model, last, splits)
    _try_targets(plan, splits, result, with_board=True)
    return result


def _try_training(plan: Plan, splits: DataSplits, model: nn.Module) -> None:
    """Train for one step, as the baseline would be; raise InputError if that fails."""
    loss = plan.training.value.loss
    try:
        with taught(loss, model, model, example_image(splits)) as bound:
            try:
                _train(plan, splits, model, plan.training.value, bound, [], moments=MOMENTS[:1])
            except Exception as error:  # a user's forward may raise anything
                raise InputError(f"model: the network cannot be trained: {first_line(error)}") from error
    except ValueError as error:
        raise InputError(f"training.loss.{error}") from error


def _train(
    plan: Plan,
    splits: DataSplits,
    model: nn.Module,
    recipe: Recipe,
    loss: Loss,
    callbacks: Sequence[StepCallback],
    *,
    moments: Sequence[float],
) -> None:
    """Make a step of training at each of ``moments``, shares of a training that are done, with a learning rate of 0."""
    few = splits.train.select(torch.arange(min(TRAINED, recipe.batch_size)))
    ((images, labels),) = evaluation_batches(splits, few, batch_size=TRAINED)
    optimizer = recipe.optimizer(p for p in model.parameters() if p.requires_grad)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    model.train().to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    for moment in moments:
        for callback in callbacks:
            callback.before_step(model, moment)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=plan.compute.precision == "bf16"):
            value = loss(model(images), labels, images)
        value.backward()
        for callback in callbacks:
            callback.after_backward(model)
        optimizer.step()
        for callback in callbacks:
            callback.after_step(model, moment + 1e-3)
    optimizer.zero_grad()
    model.eval().to(memory_format=torch.contiguous_format)


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
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        except Exception as error:  # of a library, or of a user's forward
            log.exception("%s fails on this network", name)
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"{name}: the method cannot work on this network ({reason})") from error
        model, last = Compressed.of(result).model.eval(), method
        made = made - set(method.undoes) | set(method.makes)
        check_fit(model, splits)
        checked(name, Compressed.of(result), example_image(splits))
    return model, last


def _context(plan: Plan, splits: DataSplits, before: nn.Module) -> Context:
    few = splits.calibration.select(torch.arange(min(IMAGES, len(splits.calibration))))
    before = copy.deepcopy(before)
    example = example_image(splits)

    def fine_tune(
        model: nn.Module, recipe: Recipe, callbacks: Sequence[StepCallback] = (), loss: Loss | None = None
    ) -> None:
        with taught(loss or recipe.loss, model, before, example) as bound:
            _train(plan, splits, model, recipe, bound, [*callbacks, Keep(model)], moments=MOMENTS)

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
