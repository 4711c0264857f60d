"""Objectives, limits, the Pareto front, and when a trial is stopped early."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from src.experiment.budget import LIMITED, Budget
from src.study.judging import SEARCHED, Judge, Stopping, searched_values
from tests.rows import row


def values(accuracy: float, size: float, latency: float = 1.0) -> dict[str, float]:
    return {"accuracy_validation": accuracy, "size_gzip_bytes": size, "latency_ms_p50": latency}


def judge(
    *objectives: str, drop: float | None = 0.01, size: float | None = None, latency: float | None = None
) -> Judge:
    budget = Budget(accuracy_drop=drop, size_gzip_bytes=size, latency_ms=latency)
    return Judge(objectives or ("size_gzip_bytes",), budget, baseline=0.99)


def test_a_violation_grows_with_the_factor_by_which_a_limit_is_missed() -> None:
    judged = judge(size=100, latency=2.0)
    found = judged.violations(values(0.97, 150, 1.0))
    factors = {"accuracy_drop": 0.03 / 0.02, "size_gzip_bytes": 1.5, "latency_ms": 0.5}
    assert {name: math.exp(violation) for name, violation in found.items()} == pytest.approx(factors)
    assert not judged.within_budget(values(0.97, 150, 1.0))
    assert judged.within_budget(values(0.98, 100, 2.0))
    assert (
        judged.missed_limits(values(0.97, 150)) == "accuracy fell by 2.00 points, size_gzip_bytes is 150 of at most 100"
    )


def test_no_accuracy_is_enough_if_the_budget_wants_more_than_all() -> None:
    beyond = Judge(("size_gzip_bytes",), Budget(accuracy_drop=-0.02), baseline=0.99)
    assert not beyond.within_budget(values(1.0, 10))


def test_a_limit_that_is_just_kept_is_kept_though_nothing_may_be_lost() -> None:
    perfect = Judge(("size_gzip_bytes",), Budget(accuracy_drop=0.0), baseline=1.0)
    assert perfect.within_budget(values(1.0, 10))
    assert not perfect.within_budget(values(0.9999, 10))
    assert judge(size=100).within_budget(values(0.98, 100))
    assert not judge(size=100_000_000).within_budget(values(0.98, 100_000_001))


def test_the_front_holds_what_nothing_beats_and_equals_once() -> None:
    trials = {
        0: values(0.99, 300),
        1: values(0.98, 100),
        2: values(0.97, 200),
        3: values(0.99, 300),
        4: values(0.9, 50),
    }
    assert judge().pareto_front(trials) == [4, 1, 0]


def test_of_two_objectives_both_count() -> None:
    both = judge("size_gzip_bytes", "latency_ms_p50")
    assert both.dominates(values(0.9, 10, 1.0), values(0.99, 10, 2.0))
    assert not both.dominates(values(0.9, 10, 3.0), values(0.99, 20, 2.0))
    assert both.directions == ["minimize", "minimize"]
    assert judge("accuracy_validation").directions == ["maximize"]


def test_a_trial_is_stopped_if_no_gain_brings_it_into_the_budget() -> None:
    judged = judge()
    assert judged.stop_reason(values(0.95, 10), gain=0.03, rivals=[]) is None
    why = judged.stop_reason(values(0.95, 10), gain=0.02, rivals=[])
    assert why is not None
    assert why.startswith("out of budget: accuracy fell by 2.00 points even with 2.00 points more")
    assert judged.stop_reason(values(0.5, 10), gain=math.inf, rivals=[]) is None
    small = judge(size=5)
    assert (
        small.stop_reason(values(0.99, 10), gain=math.inf, rivals=[])
        == "out of budget: size_gzip_bytes is 10 of at most 5"
    )


def test_a_trial_is_stopped_if_another_dominates_all_that_it_can_gain() -> None:
    judged = judge()
    assert judged.stop_reason(values(0.98, 100), gain=0.001, rivals=[values(0.985, 90)]) is not None
    assert judged.stop_reason(values(0.98, 100), gain=0.01, rivals=[values(0.985, 90)]) is None
    assert judged.stop_reason(values(0.98, 80), gain=0.001, rivals=[values(0.985, 90)]) is None


def test_the_gain_of_longer_training_is_learnt_from_trials_that_went_to_the_end() -> None:
    stopping = Stopping(observed=2, margin=1.5)
    known = [{0.25: 0.9, 1.0: 0.96}, {0.25: 0.95, 1.0: 0.96}, {0.25: 0.1}]
    assert stopping.possible_gain(0.25, known) == pytest.approx(0.09)
    assert stopping.possible_gain(0.25, known[1:]) == math.inf
    assert stopping.possible_gain(0.25, [{0.25: 0.9, 1.0: 0.8}] * 2) == 0.0


def test_objectives_that_no_file_has_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no column size_byte"):
        judge("size_byte")
    with pytest.raises(ValueError, match="objectives is empty"):
        Judge((), Budget(), 0.9)


def test_the_columns_that_a_search_measures_and_their_directions_are_those_declared() -> None:
    assert set(SEARCHED) == {
        "accuracy_validation",
        "size_bytes",
        "size_gzip_bytes",
        "size_packed_bytes",
        "latency_ms_p50",
        "latency_ms_p95",
        "parameters",
        "nonzero_parameters",
        "macs",
        "peak_activation_bytes",
        "energy_uj_estimate",
        "bits_per_weight",
    }
    higher = {column for column in SEARCHED if judge(column).directions == ["maximize"]}
    assert higher == {"accuracy_validation"}
    limits = Budget(energy_uj=5, latency_ms=4, size_gzip_bytes=3, size_bytes=2, accuracy_drop=0.1)
    every = Judge(("macs",), limits, 0.9)
    assert list(every.limits) == ["size_bytes", "size_gzip_bytes", "latency_ms", "energy_uj"]
    assert every.required == ["macs", "size_bytes", "size_gzip_bytes", "latency_ms_p50", "energy_uj_estimate"]
    assert list(every.limits.values()) == list(zip(every.required[1:], (2, 3, 4, 5), strict=True))


def test_the_docs_name_every_column_and_limit() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "search.md").read_text()
    assert [name for name in (*SEARCHED, *LIMITED) if f"`{name}`" not in text] == []


def test_a_row_is_judged_by_the_columns_that_it_knows() -> None:
    values = searched_values(row(size_bytes=7, energy_uj_estimate=None))
    assert values["size_bytes"] == 7.0
    assert set(SEARCHED) - set(values) == {"energy_uj_estimate"}
