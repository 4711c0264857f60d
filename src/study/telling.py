"""What a person is told of a search: its progress, its front as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from src.console import duration, size
from src.contracts import TrialRecord
from src.study.claims import REASON, finished
from src.study.judging import ACCURACY, Judge
from src.study.space import Point
from src.study.trials import BUSY, POINT, SPENT, STOPPED, VALUES, values_of

Described = dict[str, Any]


def whole(study: optuna.Study) -> dict[int, dict[str, float]]:
    """What trials that were trained to their end measured, by number."""
    done = (trial for trial in finished(study) if trial.state is TrialState.COMPLETE)
    return {trial.number: values_of(trial) for trial in done if STOPPED not in trial.user_attrs}


def best(study: optuna.Study, judge: Judge) -> list[int]:
    """Trials within the budget, the best first; of several objectives those of the front."""
    kept = {number: values for number, values in whole(study).items() if judge.keeps(values)}
    if len(judge.objectives) > 1:
        return judge.front(kept)
    return sorted(kept, key=lambda number: judge.order(kept[number]))


def point(study: optuna.Study, number: int) -> Point:
    """What a trial chose."""
    chosen: Point = study.get_trials(deepcopy=False)[number].user_attrs[POINT]
    return chosen


def record(trial: FrozenTrial, judge: Judge) -> TrialRecord:
    """A finished trial as the tracking store keeps it."""
    attributes = trial.user_attrs
    values = attributes.get(VALUES, {})
    tags = {name: str(attributes[name]) for name in (STOPPED, REASON) if name in attributes}
    if values:
        tags["within_budget"] = str(judge.keeps(values)).lower()
    begun, ended = trial.datetime_start, trial.datetime_complete
    return TrialRecord(
        trial.number,
        attributes.get(POINT, trial.params),
        values,
        tags,
        trial.state is TrialState.FAIL,
        begun.timestamp() if begun else 0.0,
        ended.timestamp() if ended else 0.0,
    )


def progress(study: optuna.Study, judge: Judge, trials: int, before: int, seconds: float) -> str:
    """A line after each trial.

    Args:
        study: As it stands.
        judge: What counts.
        trials: To be finished in all.
        before: Finished when this command started.
        seconds: Since then.
    """
    done, every = len(finished(study)), whole(study)
    leaders = best(study, judge)
    if leaders:
        values = every[leaders[0]]
        drop = 100 * (judge.baseline - values[ACCURACY])
        shown = ", ".join(spoken(column, values[column]) for column in judge.objectives)
        said = f"best within budget: {shown} at {100 * values[ACCURACY]:.2f} % (drop {drop:.2f})"
    else:
        said = "none within budget yet"
    line = f"trial {done}/{trials}  {said}  -  front of {len(judge.front(every))}"
    if done >= trials:
        return line
    return f"{line}  -  about {duration(seconds / max(1, done - before) * (trials - done))} left"


def spoken(column: str, value: float) -> str:
    """A measured value with its unit."""
    if column.endswith("_bytes"):
        return f"{size(value)}{' gzipped' if 'gzip' in column else ''}"
    if column.startswith("latency"):
        return f"{value:.3f} ms"
    if column.startswith("accuracy"):
        return f"{100 * value:.2f} %"
    return f"{column} {value:,.4g}"


def _short(column: str, value: float) -> str:
    """A round value beside an axis that says its column."""
    if column.endswith("_bytes"):
        number, unit = size(value).split(" ")
        return f"{float(number.replace(',', '')):g} {unit}"
    return f"{value:,.4g}"


def described(trial: FrozenTrial, judge: Judge) -> Described:
    """A trial as ``search.json`` keeps it."""
    attributes = trial.user_attrs
    values = attributes.get(VALUES)
    return {
        "number": trial.number,
        "point": attributes.get(POINT, trial.params),
        "values": values,
        "within_budget": values is not None and judge.keeps(values),
        "stopped": attributes.get(STOPPED),
        "failed": attributes.get(REASON),
    }


def figures(study: optuna.Study) -> dict[str, float]:
    """Seconds of all trials together, and the share of them not spent in making and measuring models."""
    done = [trial.user_attrs for trial in finished(study) if SPENT in trial.user_attrs]
    spent, busy = sum(each[SPENT] for each in done), sum(each[BUSY] for each in done)
    return {"trial_seconds": spent, "overhead_share": (spent - busy) / spent if spent else 0.0}


def front_table(study: optuna.Study, judge: Judge, front: Sequence[int]) -> list[str]:
    """The front, a line a trial: objectives, accuracy on validation data, and what was chosen."""
    every = whole(study)
    trials = {trial.number: trial for trial in finished(study)}
    heads = ["trial", *judge.objectives, "validation", "budget", "chain"]
    lines = [heads]
    for number in front:
        values = every[number]
        cells = [spoken(column, values[column]) for column in judge.objectives]
        point = trials[number].user_attrs[POINT]
        lines.append(
            [
                str(number),
                *cells,
                f"{100 * values[ACCURACY]:.2f} %",
                "kept" if judge.keeps(values) else "missed",
                chain_of(point),
            ]
        )
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def chain_of(point: Mapping[str, Any]) -> str:
    """The settings of a point that matter most to a reader, in one line."""
    shown = [key for key in point if "fine_tune" not in key and ":" not in key and not isinstance(point[key], bool)]
    steps = [key for key, value in point.items() if value is True]
    settings = {key: f"{point[key]:.3g}" if isinstance(point[key], float) else str(point[key]) for key in shown}
    return ", ".join(
        [
            *(step for step in steps if not any(k.startswith(f"{step}.") for k in settings)),
            *(f"{key}={value}" for key, value in settings.items()),
        ]
    )


def nearest(study: optuna.Study, judge: Judge) -> str:
    """What no trial could keep, and the one that came nearest."""
    complete = [trial for trial in finished(study) if trial.state is TrialState.COMPLETE]
    every = whole(study) or {trial.number: values_of(trial) for trial in complete}  # all were stopped early
    if best(study, judge):
        return "Nothing keeps the budget when it is measured once more."
    if not every:
        reasons = list(dict.fromkeys(trial.user_attrs.get(REASON, "") for trial in finished(study)))
        return f"No trial came to its end: {'; '.join(filter(None, reasons))}."
    missed = {n: sum(max(0.0, v) for v in judge.violations(values).values()) for n, values in every.items()}
    number = min(missed, key=lambda n: missed[n])
    shown = ", ".join(spoken(column, every[number][column]) for column in (*judge.objectives, ACCURACY))
    return f"Nothing keeps the budget. The nearest is trial {number} ({shown}): {judge.missed(every[number])}."


def draw(study: optuna.Study, judge: Judge, chosen: int | None, path: Path) -> None:
    """Every trial as a dot: accuracy against each objective, with the front of the two as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    every = whole(study)
    columns = [column for column in judge.objectives if column != ACCURACY] or list(judge.objectives)
    figure, axes = pyplot.subplots(1, len(columns), figsize=(6 * len(columns), 4.5), squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        for kept, color, label in ((True, "tab:blue", "within budget"), (False, "tab:gray", "budget missed")):
            some = [values for values in every.values() if judge.keeps(values) is kept]
            axis.scatter([v[column] for v in some], [100 * v[ACCURACY] for v in some], s=18, c=color, label=label)
        if every:
            front = replace(judge, objectives=(column,)).front(every)
            line = sorted((every[number][column], 100 * every[number][ACCURACY]) for number in front)
            places = [list(place) for place in zip(*line, strict=True)]
            axis.plot(*places, color="tab:orange", linewidth=1, drawstyle="steps-post", label="front")
        if chosen is not None:
            axis.scatter(
                [every[chosen][column]],
                [100 * every[chosen][ACCURACY]],
                s=90,
                marker="*",
                c="tab:red",
                label=f"chosen: trial {chosen}",
                zorder=3,
            )
        if judge.budget.accuracy_drop is not None:
            least = 100 * (judge.baseline - judge.budget.accuracy_drop)
            axis.axhline(least, color="black", linewidth=0.8, linestyle=":", label="least accuracy")
        if every:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(lambda value, _, name=column: _short(name, value))
            axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_xlabel(column)
        axis.grid(alpha=0.3)
        # Trials far below say nothing of where the budget lies.
        near = [100 * v[ACCURACY] for v in every.values()]
        if near:
            low = sorted(near)[len(near) // 5]
            axis.set_ylim(min(low, 100 * (judge.baseline - 0.03)), max(near) + 0.3)
    axes[0][0].set_ylabel("accuracy on validation data, %")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
