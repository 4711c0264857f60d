"""How small the models of a space can get: known before the first trial, from untrained weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.contracts import DataSplits, ImageSet, InputError
from src.data.batches import evaluation_batches
from src.metrics.rows import measure_times, measure_untested
from src.plan import Plan
from src.rehearsal import rehearse, written
from src.study.judging import ACCURACY, COLUMNS, LIMITS, Judge
from src.study.space import Point, Space

# A budget is refused only where it is missed by more than this: untrained weights compress a little otherwise.
ESTIMATED = {"size_gzip_bytes": 1.25}
SOFTENED = 2.0  # the same where the hardest chain cannot be made, so that a milder one stands for it
SOFTER = (0.0, 0.25, 0.5, 0.75)  # shares of the range away from the hardest end, tried in this order
IMAGES = 50


def promise(space: Space, plan_of: Callable[[Point], Plan], splits: DataSplits, judge: Judge) -> str:
    """Say how small the models of a space can get.

    A step may cost more than it saves in a small network: where the chain of all steps misses the budget, chains
    without one of them are asked, too, and the baseline. Where a chain cannot be made, a milder one stands for it.

    Raises:
        InputError: A limit of bytes lies beyond all of them.
    """
    optional = [name for name, step in space.steps.items() if step.optional]
    found: list[dict[str, float]] = []
    softened = False
    for without in [[], *([name] for name in optional), optional]:
        for soft in SOFTER:
            try:
                found.append(least(plan_of(space.hardest(without, soft)), splits, judge))
            except InputError:  # not each point of a space can be made
                continue
            softened |= soft > 0
            break
        try:
            return reach(found, judge, softened=softened)
        except InputError:
            if without == optional:
                raise
    return reach(found, judge, softened=softened)


def least(plan: Plan, splits: DataSplits, judge: Judge) -> dict[str, float]:
    """Columns of a plan's file, made of untrained weights; accuracy aside.

    Args:
        plan: With one target.
        splits: The data.
        judge: Says whether latency counts.

    Raises:
        InputError: A step refuses.
    """
    ((name, part),) = plan.targets.items()
    target = part.value
    few = splits.validation.select(slice(0, IMAGES))  # type: ignore[arg-type]
    lowered = rehearse(plan, splits)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{target.ending}"
        parts = written(name, target, lowered, splits, path, "")

        def some(_: ImageSet) -> Any:
            return evaluation_batches(splits, few, batch_size=IMAGES)

        def one_by_one(images: ImageSet) -> Any:
            return evaluation_batches(splits, images, batch_size=1)

        session = target.load(parts[0], threads=1)
        columns, _ = measure_untested(target, parts, session, splits, some, integer=lowered.integer)
        if judge.timed:
            clock = replace(plan.clock, largest_batch=1)
            columns |= measure_times([(target, parts[0])], splits, one_by_one, clock)[0].columns()
    return {name: columns[name] for name in COLUMNS if columns.get(name) is not None and name != ACCURACY}


def reach(found: Sequence[Mapping[str, float]], judge: Judge, *, softened: bool) -> str:
    """Say the least of each column that counts.

    Args:
        found: Columns of the hardest chains that could be made.
        judge: What counts.
        softened: Whether a milder chain stands for one that could not be made.

    Raises:
        InputError: A limit of bytes lies beyond it. Latency refuses nothing: it does not fall with every step.
    """
    if not found:
        return "None of the hardest chains can be made, so that the least is unknown"
    columns = {name: min(each[name] for each in found if name in each) for name in found[0]}
    limits = {column: getattr(judge.budget, name) for name, column in LIMITS.items()}
    limits = {column: limit for column, limit in limits.items() if limit is not None}
    unknown = [column for column in limits if column not in columns and not column.startswith("latency")]
    if unknown:
        raise InputError(f"{', '.join(unknown)} cannot be measured for this target: choose another search.target")
    shown = [column for column in dict.fromkeys([*judge.objectives, *limits]) if column in columns]
    said = ", ".join(f"{column} about {columns[column]:,.4g}" for column in shown)
    for column, limit in limits.items():
        spare = ESTIMATED.get(column, 1.0) * (SOFTENED if softened else 1.0)
        if not column.startswith("latency") and columns[column] > limit * spare:
            raise InputError(
                f"The budget cannot be kept: with every step at its hardest the space reaches {said}, and {column} may "
                f"be at most {limit:,.4g}. Widen the space (space.STEP.choose.…) or the budget."
            )
    return f"With every step at its hardest: {said}" if said else "What is searched is known of trained models only"
