"""What came of a search: written to its folder, said to a person, told to the model registry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from src import results
from src.console import remarks, table
from src.contracts import Row
from src.study import telling
from src.study.claims import REASON, finished
from src.study.judging import Judge
from src.tracking.provenance import git_commit


@dataclass(frozen=True)
class Outcome:
    """A search that is over.

    Attributes:
        study: Every trial.
        judge: What counts.
        target: Whose file counts.
        folder: Of the search.
        baseline: Its rows, one a target.
        finalists: By trial the rows of its files, one a target; those of the baseline where it has no step.
        chosen: The best finalist within the budget; None where there is none.
        notes: What is to be said of finalists that miss it after all.
        commands: By finalist what makes it again.
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
        """The baseline's, then the finalists'."""
        return [*self.baseline, *(row for rows in self.finalists.values() for row in rows if row not in self.baseline)]

    @property
    def identity(self) -> str:
        """Of the chosen stage, or the baseline."""
        return (self.baseline if self.chosen is None else self.finalists[self.chosen])[0].identity

    def write(self, budget: Mapping[str, Any]) -> None:
        """``search.json`` of all trials, ``front.png``, and ``model_card.md`` later where one is registered."""
        front = self.judge.front(telling.whole(self.study))
        results.write_search(
            self.folder,
            {
                "name": self.study.study_name,
                "target": self.target,
                "objectives": list(self.judge.objectives),
                "budget": dict(budget),
                "baseline_accuracy_validation": self.judge.baseline,
                "chosen": self.chosen,
                "commands": {str(number): line for number, line in self.commands.items()},
                "front": front,
                "trials": [telling.described(trial, self.judge) for trial in finished(self.study)],
                **telling.figures(self.study),
            },
        )
        telling.draw(self.study, self.judge, self.chosen, self.folder / "front.png")

    def lines(self) -> list[str]:
        """The front, the finalists' rows, the chosen model's files and the command that makes it again."""
        rows = results.rows_of(self.folder)
        front = self.judge.front(telling.whole(self.study))
        trials = finished(self.study)
        lines = ["", f"The front ({len(front)} of {len(trials)} trials):"]
        lines += telling.front_table(self.study, self.judge, front)
        lines += ["", *table(rows), "", *remarks(rows), *self.notes]
        lines += [f"Failed: trial {t.number}: {t.user_attrs[REASON]}" for t in trials if REASON in t.user_attrs]
        lines += self._said_of_chosen() if self.chosen is not None else [telling.nearest(self.study, self.judge)]
        share = 100 * telling.figures(self.study)["overhead_share"]
        return [
            *lines,
            f"Written: {self.folder} (search.json, front.png)    {share:.1f} % of the time went to the search",
        ]

    def registration(self, limits: Mapping[str, Any]) -> tuple[Row, dict[str, Any]]:
        """The chosen row, and what the registry is told of it; ``limits`` are those of the budget that are set."""
        assert self.chosen is not None
        return self._counted(self.finalists[self.chosen]), {
            "objective": self.judge.objectives[0],
            "budget": json.dumps(dict(limits)),
            "within_budget": "true",
            "command": self.commands[self.chosen],
            "git_commit": git_commit(),
            "point": json.dumps(telling.point(self.study, self.chosen)),
        }

    def _said_of_chosen(self) -> list[str]:
        assert self.chosen is not None
        rows = self.finalists[self.chosen]
        row, allowed = self._counted(rows), self.judge.budget.accuracy_drop
        drop = round(self._counted(self.baseline).accuracy - row.accuracy, 9)
        said = f"Chosen: trial {self.chosen}, {telling.spoken('accuracy', row.accuracy)} of the test set"
        said += f" (drop {100 * drop:.2f})"
        if allowed is not None and drop > allowed:
            said += f"; on the test set the budget of {100 * allowed:.2f} points is missed"
        files = [f"  {self.folder / f'trial_{self.chosen}' / each.artifact}" for each in rows]
        return [said, *files, f"Made again by: {self.commands[self.chosen]}"]

    def _counted(self, rows: Sequence[Row]) -> Row:
        return next(row for row in rows if row.target == self.target)
