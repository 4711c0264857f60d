"""What a search ended with: ``search.json``, the lines for a person, and the model to register."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from src.contracts import BY_NAME, Entry, Registration, Row
from src.display.tables import remarks, table
from src.experiment.budget import LIMITED
from src.experiment.results import SEARCH
from src.files.records import write_record
from src.study.attributes import REASON
from src.study.claims import finished_trials
from src.study.judging import Judge
from src.study.plot import plot_front
from src.study.summary import (
    completed_values,
    front_table,
    nearest_miss,
    point_of,
    search_record,
    time_figures,
)


@dataclass(frozen=True)
class Outcome:
    """A search that is over.

    Attributes:
        study: The study with every trial.
        judge: Compares its trials.
        target: Name of the target whose file was measured in each trial.
        folder: Folder of the search.
        baseline: Rows of the baseline's files, one for each target.
        finalists: Rows of each finalist's files, one for each target, by trial number; a chain of no step has the
            baseline's rows.
        chosen: Number of the best finalist within the budget; None if there is none.
        notes: A line for each finalist that misses the budget when it is measured once more.
        commands: The command that makes a finalist again, by trial number.
    """

    study: optuna.Study
    judge: Judge
    target: str
    folder: Path
    baseline: Sequence[Row]
    finalists: Mapping[int, Sequence[Row]]
    chosen: int | None
    notes: Sequence[str]
    commands: Mapping[int, str]

    @property
    def rows(self) -> list[Row]:
        """The baseline's rows, then the finalists'."""
        return [*self.baseline, *(row for rows in self.finalists.values() for row in rows if row not in self.baseline)]

    @property
    def identity(self) -> str:
        """Identity of the stage that was chosen; the baseline's if none was."""
        return (self.baseline if self.chosen is None else self.finalists[self.chosen])[0].identity

    def write(self) -> None:
        """Write ``search.json``, which holds every trial, and ``front.png``."""
        trials = completed_values(self.study)
        content = {
            "name": self.study.study_name,
            "target": self.target,
            "objectives": list(self.judge.objectives),
            "budget": {key: self.judge.budget.limits.get(key) for key in LIMITED},
            "baseline_accuracy_validation": self.judge.baseline,
            "chosen": self.chosen,
            "commands": {str(number): command for number, command in self.commands.items()},
            "front": self.judge.pareto_front(trials),
            "trials": [search_record(trial, self.judge) for trial in finished_trials(self.study)],
            **time_figures(self.study),
        }
        write_record(self.folder / SEARCH, content)
        plot_front(trials, self.judge, self.chosen, self.folder / "front.png")

    def lines(self) -> list[str]:
        """The front, the finalists' rows, the chosen model's files and the command that makes it again."""
        front = self.judge.pareto_front(completed_values(self.study))
        trials = finished_trials(self.study)
        overhead = 100 * time_figures(self.study)["overhead_share"]
        return [
            "",
            f"The front ({len(front)} of {len(trials)} trials):",
            *front_table(self.study, self.judge, front),
            "",
            *table([Entry(row) for row in self.rows]),
            "",
            *remarks(self.rows),
            *self.notes,
            *(f"Failed: trial {t.number}: {t.user_attrs[REASON]}" for t in trials if REASON in t.user_attrs),
            *(self._chosen_lines() if self.chosen is not None else [nearest_miss(self.study, self.judge)]),
            f"Written: {self.folder} (search.json, front.png)    {overhead:.1f} % of the time went to the search",
        ]

    @property
    def chosen_row(self) -> Row | None:
        """The chosen model's row of the target that was measured in each trial; None if there is none."""
        return None if self.chosen is None else self._searched_row(self.finalists[self.chosen])

    def registration(self, git_commit: str | None) -> Registration:
        """The chosen model for the registry; there must be one."""
        assert self.chosen is not None
        row = self._searched_row(self.finalists[self.chosen])
        return Registration(
            name=f"{row.data}-{row.model}",
            row=row,
            rows=[*self.finalists[self.chosen], *self.baseline],
            objective=self.judge.objectives[0],
            budget=self.judge.budget.limits,
            command=self.commands[self.chosen],
            git_commit=git_commit,
            point=point_of(self.study, self.chosen),
        )

    def _chosen_lines(self) -> list[str]:
        assert self.chosen is not None
        rows = self.finalists[self.chosen]
        row, allowed = self._searched_row(rows), self.judge.budget.accuracy_drop
        drop = round(self._searched_row(self.baseline).accuracy - row.accuracy, 9)
        accuracy = BY_NAME["accuracy"].text([row.accuracy])
        line = f"Chosen: trial {self.chosen}, {accuracy} of the test set (drop {100 * drop:.2f})"
        if allowed is not None and drop > allowed:
            line += f"; on the test set the budget of {100 * allowed:.2f} points is missed"
        files = [f"  {self.folder / f'trial_{self.chosen}' / each.artifact}" for each in rows]
        return [line, *files, f"Made again by: {self.commands[self.chosen]}"]

    def _searched_row(self, rows: Sequence[Row]) -> Row:
        """The row of the target whose file was measured in each trial."""
        return next(row for row in rows if row.target == self.target)
