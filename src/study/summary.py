"""What a study has found so far: the best trials, the front, and records of its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from src.contracts import BY_NAME, TrialRecord
from src.display.tables import aligned
from src.study.attributes import POINT, REASON, STOPPED, TOTAL_SECONDS, VALUES, WORK_SECONDS, values_of
from src.study.claims import finished_trials
from src.study.judging import ACCURACY, Judge
from src.study.space import Point


def completed_values(study: optuna.Study) -> dict[int, dict[str, float]]:
    """What the trials that were neither stopped early nor failed measured, by trial number."""
    measured = (trial for trial in finished_trials(study) if trial.state is TrialState.COMPLETE)
    return {trial.number: values_of(trial) for trial in measured if STOPPED not in trial.user_attrs}


def trials_within_budget(study: optuna.Study, judge: Judge) -> list[int]:
    """Numbers of the completed trials within the budget, the best first; of several objectives those of the front."""
    kept = {number: values for number, values in completed_values(study).items() if judge.within_budget(values)}
    if len(judge.objectives) > 1:
        return judge.pareto_front(kept)
    return sorted(kept, key=lambda number: judge.sort_key(kept[number]))


def point_of(study: optuna.Study, number: int) -> Point:
    """The point that the trial ``number`` chose."""
    chosen: Point = study.get_trials(deepcopy=False)[number].user_attrs[POINT]
    return chosen


def time_figures(study: optuna.Study) -> dict[str, float]:
    """Seconds of all trials together, and the share of them not spent in making and measuring models."""
    trials = [trial.user_attrs for trial in finished_trials(study) if TOTAL_SECONDS in trial.user_attrs]
    total, work = sum(each[TOTAL_SECONDS] for each in trials), sum(each[WORK_SECONDS] for each in trials)
    return {"trial_seconds": total, "overhead_share": (total - work) / total if total else 0.0}


# A trial as a record ----------------------------------------------------------------------------------


def tracking_record(trial: FrozenTrial, judge: Judge) -> TrialRecord:
    """A finished trial as the tracking store keeps it."""
    attributes = trial.user_attrs
    values = attributes.get(VALUES, {})
    tags = {name: str(attributes[name]) for name in (STOPPED, REASON) if name in attributes}
    if values:
        tags["within_budget"] = str(judge.within_budget(values)).lower()
    started, ended = trial.datetime_start, trial.datetime_complete
    return TrialRecord(
        trial.number,
        attributes.get(POINT, trial.params),
        values,
        tags,
        trial.state is TrialState.FAIL,
        started.timestamp() if started else 0.0,
        ended.timestamp() if ended else 0.0,
    )


def search_record(trial: FrozenTrial, judge: Judge) -> dict[str, Any]:
    """A finished trial as ``search.json`` keeps it."""
    attributes = trial.user_attrs
    values = attributes.get(VALUES)
    return {
        "number": trial.number,
        "point": attributes.get(POINT, trial.params),
        "values": values,
        "within_budget": values is not None and judge.within_budget(values),
        "stopped": attributes.get(STOPPED),
        "failed": attributes.get(REASON),
    }


# Lines for a person -----------------------------------------------------------------------------------


def front_table(study: optuna.Study, judge: Judge, front: Sequence[int]) -> list[str]:
    """The front, a line a trial: objectives, accuracy on validation data, whether the budget holds, and the choices."""
    values = completed_values(study)
    points = {trial.number: trial.user_attrs.get(POINT, trial.params) for trial in finished_trials(study)}
    lines = [["trial", *judge.objectives, "validation", "budget", "chain"]]
    for number in front:
        objectives = [BY_NAME[column].text([values[number][column]]) for column in judge.objectives]
        budget = "kept" if judge.within_budget(values[number]) else "missed"
        accuracy = BY_NAME[ACCURACY].text([values[number][ACCURACY]])
        lines.append([str(number), *objectives, accuracy, budget, point_text(points[number])])
    return aligned(lines, left=len(lines[0]))


def nearest_miss(study: optuna.Study, judge: Judge) -> str:
    """Why the search found nothing within the budget, and the trial that missed it by the least."""
    if trials_within_budget(study, judge):
        return "Nothing keeps the budget when it is measured once more."
    measured = [trial for trial in finished_trials(study) if trial.state is TrialState.COMPLETE]
    values = completed_values(study) or {trial.number: values_of(trial) for trial in measured}  # all stopped early
    if not values:
        reasons = list(dict.fromkeys(trial.user_attrs.get(REASON, "") for trial in finished_trials(study)))
        return f"Every trial failed: {'; '.join(filter(None, reasons))}."
    misses = {n: sum(max(0.0, v) for v in judge.violations(each).values()) for n, each in values.items()}
    nearest = min(misses, key=lambda number: misses[number])
    named = ", ".join(named_value(column, values[nearest][column]) for column in (*judge.objectives, ACCURACY))
    missed = judge.missed_limits(values[nearest])
    return f"Nothing keeps the budget. The nearest is trial {nearest} ({named}): {missed}."


def named_value(column: str, value: float) -> str:
    """A measured value in its unit, behind the name of its column."""
    return f"{column} {BY_NAME[column].text([value])}"


def point_text(point: Mapping[str, Any]) -> str:
    """The steps of a point and their main settings in one line, without fine-tuning and single layers."""
    shown = [key for key in point if "fine_tune" not in key and ":" not in key and not isinstance(point[key], bool)]
    steps = [key for key, value in point.items() if value is True]
    settings = {key: f"{point[key]:.3g}" if isinstance(point[key], float) else str(point[key]) for key in shown}
    without_settings = [step for step in steps if not any(key.startswith(f"{step}.") for key in settings)]
    return ", ".join([*without_settings, *(f"{key}={value}" for key, value in settings.items())])
