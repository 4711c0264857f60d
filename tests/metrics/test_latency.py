"""How long one image takes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout

from src.metrics import latency as module
from src.metrics.latency import latency

IMAGE = np.zeros((1, 1, 2, 2), np.float32)


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of the test's own, so that it neither waits for an experiment nor holds one up."""
    monkeypatch.setattr(module, "LOCK", tmp_path / "measuring.lock")
    return tmp_path / "measuring.lock"


def sleeping(images: np.ndarray) -> np.ndarray:
    time.sleep(0.002)
    return images


def test_a_session_that_sleeps_two_milliseconds_takes_no_less() -> None:
    found = latency(sleeping, IMAGE, seconds=0.1, least_runs=10)
    assert found.p50_ms >= 2
    assert found.p95_ms >= found.p50_ms


def test_percentiles_are_in_milliseconds() -> None:
    assert 2 <= latency(sleeping, IMAGE, seconds=0.1, least_runs=20).p50_ms < 200


def test_a_slow_call_in_twenty_moves_the_tail_and_not_the_median() -> None:
    calls = 0

    def uneven(images: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        time.sleep(0.05 if calls % 10 == 0 else 0.001)
        return images

    found = latency(uneven, IMAGE, seconds=0.2, least_runs=40)
    assert found.p50_ms < 40
    assert found.p95_ms >= 50


def test_the_least_number_of_runs_is_made_however_long_it_takes() -> None:
    assert latency(sleeping, IMAGE, seconds=0.001, least_runs=25).runs == 25


def test_the_time_is_spent_however_fast_a_call_is() -> None:
    started = time.perf_counter()
    found = latency(lambda images: images, IMAGE, seconds=0.1, least_runs=1)
    assert time.perf_counter() - started >= 0.12  # a fifth more for the warm-up
    assert found.runs > 100


def test_the_first_call_warms_up_and_is_not_counted() -> None:
    calls = 0

    def cold(images: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        time.sleep(0.1 if calls == 1 else 0.005)
        return images

    assert latency(cold, IMAGE, seconds=0.02, least_runs=5).p95_ms < 50


def test_every_call_gets_the_image() -> None:
    seen = []

    def looking(images: np.ndarray) -> np.ndarray:
        seen.append(images is IMAGE)
        return images

    found = latency(looking, IMAGE, seconds=0.01, least_runs=5)
    assert all(seen)
    assert len(seen) > found.runs  # the warm-up


def test_nobody_else_measures_meanwhile(lock: Path) -> None:
    refused = []

    def trying(images: np.ndarray) -> np.ndarray:
        try:
            with FileLock(lock, timeout=0):
                refused.append(False)
        except Timeout:
            refused.append(True)
        return images

    latency(trying, IMAGE, seconds=0.01, least_runs=3)
    assert set(refused) == {True}
    with FileLock(lock, timeout=0) as free:
        assert free.is_locked


def test_the_lock_is_given_back_when_a_session_fails(lock: Path) -> None:
    def failing(images: np.ndarray) -> np.ndarray:
        raise RuntimeError("the runtime gave up")

    with pytest.raises(RuntimeError, match="gave up"):
        latency(failing, IMAGE, seconds=0.01)
    with FileLock(lock, timeout=0) as free:
        assert free.is_locked
