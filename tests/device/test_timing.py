"""Warming up, timing, percentiles."""

from __future__ import annotations

import time

import numpy as np
import pytest

from src.device.timing import percentiles, timed, warm_up


def test_percentiles_of_a_hundred_known_times() -> None:
    found = percentiles([at / 1000 for at in range(101)])
    assert found == pytest.approx({"p50": 50, "p95": 95, "p99": 99})


def test_every_call_is_timed_by_itself() -> None:
    times = timed(lambda: time.sleep(0.002), 0.03, least_runs=5)
    assert len(times) >= 5
    assert min(times) >= 0.002


def test_the_least_number_of_runs_is_made_however_long_it_takes() -> None:
    assert len(timed(lambda: time.sleep(0.001), 0.0001, least_runs=12)) == 12


def test_the_time_is_spent_however_fast_a_call_is() -> None:
    started = time.perf_counter()
    assert len(timed(lambda: None, 0.1, least_runs=1)) > 100
    assert time.perf_counter() - started >= 0.1


def test_a_steady_call_is_warm_before_the_limit() -> None:
    started = time.perf_counter()
    assert warm_up(lambda: time.sleep(0.005), limit_seconds=20, within=0.5)
    assert time.perf_counter() - started < 10


def test_a_call_that_gets_slower_and_slower_ends_at_the_limit() -> None:
    calls = 0

    def slowing() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.0005 * calls)

    started = time.perf_counter()
    assert not warm_up(slowing, limit_seconds=0.3, within=0.0)
    assert 0.3 <= time.perf_counter() - started < 1


def test_a_warm_up_goes_on_until_what_is_slow_at_first_is_fast() -> None:
    calls = 0

    def cold() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.02 if calls <= 15 else 0.004)

    assert warm_up(cold, limit_seconds=10, within=0.2)
    assert np.median(timed(cold, 0.05, least_runs=10)) < 0.015
