"""How small the models of a space can get: known before the first trial, from untrained weights."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.contracts import DataSplits, InputError
from src.data.batches import evaluation_batches, example_image
from src.metrics.rows import measure_untested
from src.plan import Plan
from src.rehearsal import card, rehearse
from src.study.judging import ACCURACY, LIMITS

# Of untrained weights these are estimates, so that a budget is refused only where it is missed by more than this.
ESTIMATED = {"size_gzip_bytes": 1.25, "latency_ms_p50": 1.25}
IMAGES = 50


def reach(plan: Plan, splits: DataSplits, objectives: Sequence[str], budget: Mapping[str, Any]) -> str:
    """Say what the hardest compressed model of a space measures.

    Args:
        plan: Of the point whose settings all compress most, with one target.
        splits: The data.
        objectives: Columns that are searched.
        budget: ``budget`` of the config.

    Raises:
        InputError: The budget is smaller than that.
    """
    (target,) = (part.value for part in plan.targets.values())
    few = splits.validation.select(slice(0, IMAGES))  # type: ignore[arg-type]
    timed = budget["latency_ms"] is not None or any(column.startswith("latency") for column in objectives)
    try:
        lowered = rehearse(plan, splits)
    except InputError as error:  # not each point of a space must be possible
        return f"Every step at its hardest cannot be made together, so that the least is unknown: {error}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{target.ending}"
        parts = target.export(lowered.model, example_image(splits), path, card(splits, ""), lowered.weights)
        columns, _ = measure_untested(
            target, parts, splits, lambda _: evaluation_batches(splits, few, batch_size=IMAGES), threads=1, timed=timed
        )
    limits = {column: budget[name] for name, column in LIMITS.items() if budget[name] is not None}
    shown = [column for column in dict.fromkeys([*objectives, *limits]) if column != ACCURACY and column in columns]
    said = ", ".join(f"{column} {'about ' if column in ESTIMATED else ''}{columns[column]:,.4g}" for column in shown)
    for column, limit in limits.items():
        if columns[column] > limit * ESTIMATED.get(column, 1.0):
            raise InputError(
                f"The budget cannot be kept: with every step at its hardest the space reaches {said}, and {column} may "
                f"be at most {limit:,.4g}. Widen the space (space.STEP.choose.…) or the budget."
            )
    return f"With every step at its hardest: {said}" if said else "Accuracy alone is searched"
