"""A run without its trainings: what cannot work must not cost one."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.contracts import (
    Context,
    DataSplits,
    InputError,
    Loss,
    Lowered,
    Method,
    ModelCard,
    NoEffectError,
    NotExportableError,
    QuantizingMethod,
    StepCallback,
    Target,
    TaughtLoss,
    first_line,
)
from src.data.batches import evaluation_batches, example_image
from src.models.build import build_model, check_fit
from src.models.weights import load_weights
from src.plan import Plan
from src.primitives.folding import fold_batch_norm
from src.primitives.keeping import Keep

IMAGES = 8
MOMENTS = (0.0, 0.25, 0.5, 0.75, 0.999)


def rehearse(plan: Plan, splits: DataSplits) -> Lowered:
    """Put the untrained network through every step on a few images, training nothing, and export it.

    Returns:
        What came out, as exporters take it.

    Raises:
        InputError: A step refuses its settings or the network, no target can hold what comes out, or the board cannot.
    """
    model = build_model(plan.model.value, splits, plan.seed)
    if plan.weights:
        load_weights(model, plan.weights)
        check_fit(model, splits)
    if plan.steps:
        _export(plan, splits, lowered(model, None, splits), judged=False)
    if not plan.weights:
        try:
            with taught(plan.training.value.loss, model, model, splits):
                pass
        except ValueError as error:
            raise InputError(f"training.loss.{error}") from error
    last: Method | None = None
    made: set[str] = set()
    for name, step in plan.steps.items():
        torch.manual_seed(plan.seed)
        method = copy.deepcopy(step.value)
        try:
            model = method.compress(copy.deepcopy(model), _context(plan, splits, model)).eval()
        except NoEffectError as error:  # with trained weights it may have one; what follows takes the network as it is
            if made & set(getattr(method, "makes", ())):
                raise InputError(f"{name}: {error}; an earlier step has done it") from error
            continue
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        last = method
        made = made - set(getattr(method, "undoes", ())) | set(getattr(method, "makes", ()))
        check_fit(model, splits)
    result = lowered(model, last, splits)
    _export(plan, splits, result, judged=True)
    return result


def lowered(model: nn.Module, last: Method | None, splits: DataSplits) -> Lowered:
    """``model``, made by the step ``last``, as exporters take it, batch normalization folded."""
    if isinstance(last, QuantizingMethod):
        return last.lower(model, example_image(splits))
    folded = copy.deepcopy(model).eval()
    fold_batch_norm(folded, example_image(splits))
    return Lowered(folded, {}, False)


def card(splits: DataSplits, identity: str) -> ModelCard:
    """What a file says of itself."""
    return ModelCard(splits.classes, splits.image_shape, splits.mean, splits.std, identity)


def taught(loss: Loss, student: nn.Module, before: nn.Module, splits: DataSplits) -> Any:
    """A context that gives the loss to train ``student`` with, its teachers bound where it has some."""
    example = example_image(splits)
    return loss.taught(student, before, example) if isinstance(loss, TaughtLoss) else nullcontext(loss)


def _context(plan: Plan, splits: DataSplits, before: nn.Module) -> Context:
    few = splits.calibration.select(torch.arange(min(IMAGES, len(splits.calibration))))
    before = copy.deepcopy(before)

    def fine_tune(
        model: nn.Module, recipe: Any, callbacks: Sequence[StepCallback] = (), loss: Loss | None = None
    ) -> None:
        every = [*callbacks, Keep(model)]
        model.train()
        with taught(loss or recipe.loss, model, before, splits) as bound:
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
    return Context(batches, plan.training.value.loss, example_image(splits), plan.seed, fine_tune)


def written(
    name: str, target: Target, result: Lowered, splits: DataSplits, path: Path, identity: str
) -> tuple[Path, ...]:
    """Export ``result`` to ``path``; return every part of the file.

    Raises:
        NotExportableError: The target cannot hold it.
        InputError: What exports for it is not installed.
    """
    try:
        return target.export(result.model, example_image(splits), path, card(splits, identity), result.weights)
    except ModuleNotFoundError as error:
        extra = target.extra or name
        raise InputError(
            f"target.{name} needs {error.name}, which is not installed: pip install '.[{extra}]'"
        ) from error
    except Exception as error:  # exporters raise types of their own
        raise NotExportableError(f"target.{name}: the network cannot be exported: {first_line(error)}") from error


def _export(plan: Plan, splits: DataSplits, result: Lowered, *, judged: bool) -> None:
    """Try every target; raises InputError where none of them can hold it, or the board that is to run it cannot."""
    refused = []
    for name, part in plan.targets.items():
        target = part.value
        with tempfile.TemporaryDirectory() as folder:
            try:
                copied = replace(result, model=copy.deepcopy(result.model))
                parts = written(name, target, copied, splits, Path(folder) / f"model.{target.ending}", "")
                if judged:
                    plan.board.check(target, parts)
            except NotExportableError as error:
                refused.append(error)
    if len(refused) == len(plan.targets):
        raise refused[0]
