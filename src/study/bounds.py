"""How small the models of a space can get: estimated from untrained weights before the first trial."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.contracts import DataSplits, ImageSet, InputError
from src.data.batches import evaluation_batches
from src.experiment.export import written
from src.experiment.plan import Plan
from src.experiment.rehearsal import rehearse
from src.metrics.rows import measure_times, measure_untested
from src.study.judging import ACCURACY, SEARCHED, Judge
from src.study.space import Point, Space

# Factor by which an estimate may exceed a limit before the budget is refused: untrained weights compress differently.
TOLERANCES = {"size_gzip_bytes": 1.25}
MILDER_TOLERANCE = 2.0  # a further factor if a milder chain stands for the hardest one
DISTANCES = (0.0, 0.25, 0.5, 0.75)  # from the hardest end of each range, as a share of it, tried in this order
IMAGES = 50


def check_budget(space: Space, plan_of: Callable[[Point], Plan], splits: DataSplits, judge: Judge) -> str:
    """Estimate how small the models of a space can get, and refuse a budget that none of them can keep.

    The chain with every step at its hardest is measured first. In a small network a step may cost more than it saves:
    if the chain misses the budget, chains that leave out one step are measured, too, then the baseline. If a chain
    cannot be made, a milder one stands for it.

    Returns:
        The smallest estimate of each column that is an objective or has a limit, in a line for a person.

    Raises:
        InputError: The estimates exceed a limit of the file's bytes or energy.
    """
    optional = [name for name, step in space.steps.items() if step.optional]
    measured: list[dict[str, float]] = []
    milder = False
    for without in [[], *([name] for name in optional), optional]:
        for distance in DISTANCES:
            try:
                measured.append(measure_untrained(plan_of(space.hardest_point(without, distance)), splits, judge))
            except InputError:  # some points of a space cannot be made
                continue
            milder |= distance > 0
            break
        try:
            return compare_with_budget(measured, judge, milder=milder)
        except InputError:
            if without == optional:
                raise
    return compare_with_budget(measured, judge, milder=milder)


def measure_untrained(plan: Plan, splits: DataSplits, judge: Judge) -> dict[str, float]:
    """Measure the file that a plan makes of untrained weights.

    Args:
        plan: A plan with one target.
        splits: The data.
        judge: Says whether latency is measured.

    Returns:
        The columns that a search measures, by name, without accuracy.

    Raises:
        InputError: A step refuses its settings or the network.
    """
    ((name, part),) = plan.targets.items()
    target = part.value
    few = splits.validation.select(slice(0, IMAGES))
    lowered = rehearse(plan, splits)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{target.ending}"
        parts = written(name, target, lowered, splits, path, "")

        def few_images(_: ImageSet) -> Any:
            return evaluation_batches(splits, few, batch_size=IMAGES)

        def single_images(images: ImageSet) -> Any:
            return evaluation_batches(splits, images, batch_size=1)

        session = target.load(parts[0], threads=1)
        columns = measure_untested(target, parts, session, splits, few_images, lowered)
        if judge.timed:
            clock = replace(plan.clock, largest_batch=1)
            columns |= measure_times([(target, parts[0])], splits, single_images, clock)[0].columns()
    return {name: columns[name] for name in SEARCHED if columns.get(name) is not None and name != ACCURACY}


def compare_with_budget(measured: Sequence[Mapping[str, float]], judge: Judge, *, milder: bool) -> str:
    """Compare the smallest measured values with the limits.

    Args:
        measured: Columns of the hardest chains that could be made.
        judge: Names the objectives and limits.
        milder: Whether a milder chain stands for one that could not be made.

    Returns:
        The smallest value of each column that is an objective or has a limit, in a line for a person.

    Raises:
        InputError: A value exceeds its limit, or is unknown. Latency is no reason: it does not fall with every step.
    """
    if not measured:
        return "None of the hardest chains can be made, so that the smallest values are unknown"
    smallest = {name: min(each[name] for each in measured if name in each) for name in measured[0]}
    limits = dict(judge.limits.values())
    unknown = [column for column in limits if column not in smallest and not column.startswith("latency")]
    if unknown:
        raise InputError(f"{', '.join(unknown)} cannot be measured for this target: choose another search.target")
    values = ", ".join(f"{column} about {smallest[column]:,.4g}" for column in judge.required if column in smallest)
    for column, limit in limits.items():
        tolerance = TOLERANCES.get(column, 1.0) * (MILDER_TOLERANCE if milder else 1.0)
        if not column.startswith("latency") and smallest[column] > limit * tolerance:
            raise InputError(
                f"The budget cannot be kept: with every step at its hardest the space reaches {values}, and {column} "
                f"may be at most {limit:,.4g}. Widen the space (space.STEP.choose.…) or the budget."
            )
    if not values:
        return "The objectives are known of trained models only"
    return f"With every step at its hardest: {values}"
