"""``front.png``: every completed trial of a search, accuracy against each objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.contracts import BY_NAME
from src.study.judging import ACCURACY, Judge, Values

BELOW_BASELINE = 0.03  # accuracy, a share: the plot shows at least this much below the baseline


def plot_front(trials: Mapping[int, Values], judge: Judge, chosen: int | None, path: Path) -> None:
    """Draw accuracy against each objective, with the front of the two.

    Args:
        trials: What completed trials measured, by number.
        judge: Names the objectives and says what is within the budget.
        chosen: Number of the chosen trial; None if there is none.
        path: File to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = [column for column in judge.objectives if column != ACCURACY] or list(judge.objectives)
    figure, axes = pyplot.subplots(1, len(columns), figsize=(6 * len(columns), 4.5), squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        _plot_trials(axis, column, trials, judge)
        if chosen is not None:
            _plot_chosen(axis, column, trials[chosen], chosen)
        if judge.budget.accuracy_drop is not None:
            least = 100 * (judge.baseline - judge.budget.accuracy_drop)
            axis.axhline(least, color="black", linewidth=0.8, linestyle=":", label="least accuracy")
        axis.set_xlabel(column)
        axis.grid(alpha=0.3)
        if trials:
            _scale(axis, column, trials, judge)
    axes[0][0].set_ylabel("accuracy on validation data, %")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _plot_trials(axis: Any, column: str, trials: Mapping[int, Values], judge: Judge) -> None:
    """A dot for each trial, and the front of ``column`` and accuracy as a line."""
    for kept, color, label in ((True, "tab:blue", "within budget"), (False, "tab:gray", "budget missed")):
        some = [values for values in trials.values() if judge.within_budget(values) is kept]
        axis.scatter([v[column] for v in some], [100 * v[ACCURACY] for v in some], s=18, c=color, label=label)
    if trials:
        front = replace(judge, objectives=(column,)).pareto_front(trials)
        corners = sorted((trials[number][column], 100 * trials[number][ACCURACY]) for number in front)
        places = [list(place) for place in zip(*corners, strict=True)]
        axis.plot(*places, color="tab:orange", linewidth=1, drawstyle="steps-post", label="front")


def _plot_chosen(axis: Any, column: str, values: Values, number: int) -> None:
    label = f"chosen: trial {number}"
    axis.scatter([values[column]], [100 * values[ACCURACY]], s=90, marker="*", c="tab:red", label=label, zorder=3)


def _scale(axis: Any, column: str, trials: Mapping[int, Values], judge: Judge) -> None:
    """Ratios along the objective; of accuracies those near the budget, since trials far below say nothing of it."""
    from matplotlib import ticker

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda value, _: _short(BY_NAME[column].text([value])))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    accuracies = sorted(100 * values[ACCURACY] for values in trials.values())
    low = accuracies[len(accuracies) // 5]
    axis.set_ylim(min(low, 100 * (judge.baseline - BELOW_BASELINE)), accuracies[-1] + 0.3)


def _short(text: str) -> str:
    """A value and its unit without the zeros at the number's end: ``20.00 kB`` is ``20 kB``."""
    number, blank, unit = text.partition(" ")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + blank + unit
