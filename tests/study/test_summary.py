"""The best trials, the front, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import FrozenTrial

from src.study.progress import progress_line
from src.study.summary import (
    completed_values,
    front_table,
    nearest_miss,
    point_text,
    search_record,
    time_figures,
    tracking_record,
    trials_within_budget,
)
from tests.study.studies import JUDGE, failed, measured, study_of

STUDY = study_of(
    measured(0.99, 20_000.0, prune=True, **{"prune.sparsity": 0.5}),
    measured(0.95, 9_000.0, prune=True, **{"prune.sparsity": 0.9}),
    measured(0.5, 8_000.0, stopped="out of budget"),
    failed("it was too large"),
    measured(0.985, 15_000.0, prune=False, quantize=True),
)


def test_trials_that_were_stopped_or_failed_are_no_candidates() -> None:
    assert sorted(completed_values(STUDY)) == [0, 1, 4]
    assert trials_within_budget(STUDY, JUDGE) == [4, 0]


def test_the_front_is_a_table_with_the_choices_of_each_trial() -> None:
    assert front_table(STUDY, JUDGE, [1, 4]) == [
        "trial  size_gzip_bytes  validation  budget  chain",
        "1      9.00 kB          95.00 %     missed  prune.sparsity=0.9",
        "4      15.00 kB         98.50 %     kept    quantize",
    ]


def test_the_progress_names_the_best_within_the_budget_and_the_time_that_is_left() -> None:
    line = progress_line(STUDY, JUDGE, trials=7, before=1, seconds=8.0)
    best = "best within budget: size_gzip_bytes 15.00 kB at 98.50 % (drop 0.50)"
    assert line == f"trial 5/7  {best}  -  front of 3  -  about 4.0 s left"
    assert progress_line(STUDY, JUDGE, trials=5, before=1, seconds=8.0) == f"trial 5/5  {best}  -  front of 3"
    assert progress_line(study_of(), JUDGE, trials=5, before=0, seconds=1.0).startswith("trial 0/5  none within budget")


def test_a_trial_that_another_process_finishes_meanwhile_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(measured(0.99, 20_000.0))
    read = study.get_trials

    def read_before_one_more_ends(*args: Any, **kwargs: Any) -> list[FrozenTrial]:
        found = read(*args, **kwargs)
        study.add_trial(measured(0.99, 20_000.0 - 1000 * len(found)))
        return found

    monkeypatch.setattr(study, "get_trials", read_before_one_more_ends)
    assert "best within budget: size_gzip_bytes" in progress_line(study, JUDGE, trials=9, before=0, seconds=1.0)


def test_if_nothing_keeps_the_budget_the_nearest_is_named_even_if_it_was_stopped() -> None:
    missed = "accuracy fell by 4.00 points"
    near = "size_gzip_bytes 9.00 kB, accuracy_validation 95.00 %"
    completed = study_of(measured(0.8, 100.0), measured(0.95, 9_000.0), measured(0.97, 9_000.0, stopped="beaten"))
    assert nearest_miss(completed, JUDGE) == f"Nothing keeps the budget. The nearest is trial 1 ({near}): {missed}."
    stopped = study_of(measured(0.95, 9_000.0, stopped="out of budget"))
    assert nearest_miss(stopped, JUDGE) == f"Nothing keeps the budget. The nearest is trial 0 ({near}): {missed}."
    assert nearest_miss(study_of(failed("a"), failed("b"), failed("a")), JUDGE) == "Every trial failed: a; b."


def test_a_trial_is_recorded_with_what_it_chose_measured_and_why_it_ended() -> None:
    trials = STUDY.get_trials()
    assert search_record(trials[2], JUDGE) == {
        "number": 2,
        "point": {},
        "values": {"accuracy_validation": 0.5, "size_gzip_bytes": 8_000.0},
        "within_budget": False,
        "stopped": "out of budget",
        "failed": None,
    }
    assert search_record(trials[3], JUDGE)["failed"] == "it was too large"
    assert tracking_record(trials[2], JUDGE).tags == {"stopped": "out of budget", "within_budget": "false"}
    record = tracking_record(trials[3], JUDGE)
    assert (record.failed, record.values, record.tags) == (True, {}, {"reason": "it was too large"})


def test_the_share_of_time_that_went_to_the_search() -> None:
    assert time_figures(STUDY) == {"trial_seconds": 16.0, "overhead_share": 0.25}
    assert time_figures(study_of()) == {"trial_seconds": 0, "overhead_share": 0.0}


def test_a_point_is_named_by_its_steps_and_main_settings() -> None:
    point = {"prune": True, "quantize": True, "cluster": False, "prune.sparsity": 0.12345, "prune.fine_tune.epochs": 3}
    assert point_text({**point, "prune.ratios:conv": 0.5}) == "quantize, prune.sparsity=0.123"
