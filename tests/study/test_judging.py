"""What counts in a search."""

from __future__ import annotations

import math

import pytest

from src.contracts import InputError
from src.results import Budget
from src.study.judging import Judge, Stopping
from src.study.reach import reach


def values(accuracy: float, size: float, latency: float = 1.0) -> dict[str, float]:
    return {"accuracy_validation": accuracy, "size_gzip_bytes": size, "latency_ms_p50": latency}


def judge(
    *objectives: str, drop: float | None = 0.01, size: float | None = None, latency: float | None = None
) -> Judge:
    return Judge(objectives or ("size_gzip_bytes",), Budget(drop, None, size, latency, None), baseline=0.99)


def test_a_violation_grows_with_the_factor_by_which_a_limit_is_missed() -> None:
    asked = judge(size=100, latency=2.0)
    found = asked.violations(values(0.97, 150, 1.0))
    factors = {"accuracy_drop": 0.03 / 0.02, "size_gzip_bytes": 1.5, "latency_ms": 0.5}
    assert {name: math.exp(violation) for name, violation in found.items()} == pytest.approx(factors)
    assert not asked.keeps(values(0.97, 150, 1.0))
    assert asked.keeps(values(0.98, 100, 2.0))
    assert asked.missed(values(0.97, 150)) == "accuracy fell by 2.00 points, size_gzip_bytes is 150 of at most 100"


def test_no_accuracy_is_enough_where_more_than_all_is_asked_for() -> None:
    beyond = Judge(("size_gzip_bytes",), Budget(-0.02, None, None, None, None), baseline=0.99)
    assert not beyond.keeps(values(1.0, 10))


def test_a_limit_that_is_just_kept_is_kept_though_nothing_may_be_lost() -> None:
    perfect = Judge(("size_gzip_bytes",), Budget(0.0, None, None, None, None), baseline=1.0)
    assert perfect.keeps(values(1.0, 10))
    assert not perfect.keeps(values(0.9999, 10))
    assert judge(size=100).keeps(values(0.98, 100))
    assert not judge(size=100_000_000).keeps(values(0.98, 100_000_001))


def test_the_front_holds_what_nothing_beats_and_equals_once() -> None:
    trials = {
        0: values(0.99, 300),
        1: values(0.98, 100),
        2: values(0.97, 200),
        3: values(0.99, 300),
        4: values(0.9, 50),
    }
    assert judge().front(trials) == [4, 1, 0]


def test_of_two_objectives_both_count() -> None:
    both = judge("size_gzip_bytes", "latency_ms_p50")
    assert both.beats(values(0.9, 10, 1.0), values(0.99, 10, 2.0))
    assert not both.beats(values(0.9, 10, 3.0), values(0.99, 20, 2.0))
    assert both.directions == ["minimize", "minimize"]
    assert judge("accuracy_validation").directions == ["maximize"]


def test_a_trial_is_not_worth_more_training_where_no_gain_brings_it_into_the_budget() -> None:
    asked = judge()
    assert asked.not_worth(values(0.95, 10), gain=0.03, kept=[]) is None
    why = asked.not_worth(values(0.95, 10), gain=0.02, kept=[])
    assert why is not None
    assert why.startswith("out of budget: accuracy fell by 2.00 points even with 2.00 points more")
    assert asked.not_worth(values(0.5, 10), gain=math.inf, kept=[]) is None
    small = judge(size=5)
    assert (
        small.not_worth(values(0.99, 10), gain=math.inf, kept=[]) == "out of budget: size_gzip_bytes is 10 of at most 5"
    )


def test_a_trial_is_not_worth_more_training_where_another_beats_all_it_can_hope_for() -> None:
    asked = judge()
    assert asked.not_worth(values(0.98, 100), gain=0.001, kept=[values(0.985, 90)]) is not None
    assert asked.not_worth(values(0.98, 100), gain=0.01, kept=[values(0.985, 90)]) is None
    assert asked.not_worth(values(0.98, 80), gain=0.001, kept=[values(0.985, 90)]) is None


def test_the_gain_of_longer_training_is_learnt_from_trials_that_went_to_the_end() -> None:
    stopping = Stopping(observed=2, margin=1.5)
    known = [{0.25: 0.9, 1.0: 0.96}, {0.25: 0.95, 1.0: 0.96}, {0.25: 0.1}]
    assert stopping.gain(0.25, known) == pytest.approx(0.09)
    assert stopping.gain(0.25, known[1:]) == math.inf
    assert stopping.gain(0.25, [{0.25: 0.9, 1.0: 0.8}] * 2) == 0.0


def test_objectives_that_no_file_has_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no column size_byte"):
        judge("size_byte")
    with pytest.raises(ValueError, match="objectives is empty"):
        Judge((), Budget(None, None, None, None, None), 0.9)


def test_latency_refuses_no_space_and_bytes_do() -> None:
    asked = judge("size_gzip_bytes", size=100, latency=0.1)
    found = [{"size_gzip_bytes": 120.0, "latency_ms_p50": 5.0}, {"size_gzip_bytes": 300.0, "latency_ms_p50": 2.0}]
    said = reach(found, asked, softened=False)
    assert said == "With every step at its hardest: size_gzip_bytes about 120, latency_ms_p50 about 2"
    with pytest.raises(InputError, match="The budget cannot be kept"):
        reach(found[1:], asked, softened=False)
    assert reach([{"size_gzip_bytes": 180.0}], asked, softened=True)
