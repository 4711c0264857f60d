"""The progress of a search: a line for a person and a record for the tracking store after each trial."""

from __future__ import annotations

import time

import optuna

from src.contracts import BY_NAME, Console, TrackedSearch
from src.contracts.formats import duration
from src.study.claims import finished_trials
from src.study.judging import ACCURACY, Judge
from src.study.summary import completed_values, named_value, tracking_record, trials_within_budget


class Progress:
    """Tells a person and the tracking store of finished trials.

    Args:
        study: The study.
        judge: Compares its trials.
        trials: Number of trials to finish in all.
        tracked: The search in the tracking store.
        console: Tells the person.
    """

    def __init__(
        self, study: optuna.Study, judge: Judge, trials: int, *, tracked: TrackedSearch, console: Console
    ) -> None:
        self.study, self.judge, self.trials = study, judge, trials
        self.tracked, self.console = tracked, console
        self.finished_before = self.shown = len(finished_trials(study))
        self.started = time.perf_counter()

    @property
    def complete(self) -> bool:
        """Whether every trial is finished."""
        return len(finished_trials(self.study)) >= self.trials

    def show(self) -> None:
        """Log the trials that the store lacks, and print a line."""
        self.tracked.trials([tracking_record(trial, self.judge) for trial in finished_trials(self.study)])
        seconds = time.perf_counter() - self.started
        self.console.line(
            progress_line(self.study, self.judge, trials=self.trials, before=self.finished_before, seconds=seconds)
        )

    def show_new(self) -> None:
        """Show what other processes have finished since the last call."""
        finished = len(finished_trials(self.study))
        if finished > self.shown:
            self.shown = finished
            self.show()


def progress_line(study: optuna.Study, judge: Judge, *, trials: int, before: int, seconds: float) -> str:
    """The line that is shown after each trial.

    Args:
        study: The study.
        judge: Compares its trials.
        trials: Number of trials to finish in all.
        before: Number of trials that were finished when this command started.
        seconds: Seconds since then.
    """
    leaders = trials_within_budget(study, judge)
    completed = completed_values(study)  # read after the leaders: another process may finish a trial in between
    finished = len(finished_trials(study))
    if leaders:
        values = completed[leaders[0]]
        drop = 100 * (judge.baseline - values[ACCURACY])
        objectives = ", ".join(named_value(column, values[column]) for column in judge.objectives)
        best = f"best within budget: {objectives} at {BY_NAME[ACCURACY].text([values[ACCURACY]])} (drop {drop:.2f})"
    else:
        best = "none within budget yet"
    line = f"trial {finished}/{trials}  {best}  -  front of {len(judge.pareto_front(completed))}"
    if finished >= trials:
        return line
    return f"{line}  -  about {duration(seconds / max(1, finished - before) * (trials - finished))} left"
