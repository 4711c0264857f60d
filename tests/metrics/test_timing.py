"""Timing files, each in a process of its own, on targets whose times are known."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout

from src.contracts import InputError, Session
from src.metrics import timing as module
from src.metrics.timing import Clock, Timing, speedup, time_files

IMAGE = np.zeros((1, 1, 2, 2), np.float32)


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of the test's own, so that it neither waits for an experiment nor delays one."""
    monkeypatch.setattr(module, "LOCK", tmp_path / "measuring.lock")
    return tmp_path / "measuring.lock"


@dataclass(frozen=True)
class Sleeping:
    """Loads any file as a network that takes ``each`` seconds for an image and ``call`` seconds for a call."""

    each: float = 0.0
    call: float = 0.0
    megabytes: int = 0
    free_batch: bool = True
    fails: str = ""

    def load(self, path: Path, threads: int = 1) -> Session:
        if self.fails == "load":
            raise InputError(f"{path} cannot be loaded")
        held = np.ones(self.megabytes * 10**6, np.uint8)

        def run(images: np.ndarray) -> np.ndarray:
            if self.fails == "die":
                os._exit(7)
            if self.fails == "run":
                raise RuntimeError("the runtime gave up\nfor good")
            time.sleep(self.call + self.each * len(images))
            return images[: len(held) + len(images)]

        return run


def taken(*targets: Any, seconds: float = 0.1, rounds: int = 4, largest_batch: int = 1) -> list[Timing]:
    clock = Clock(threads=1, seconds=seconds, rounds=rounds, largest_batch=largest_batch)
    return time_files([(target, Path(f"{at}.file")) for at, target in enumerate(targets)], IMAGE, clock)


def test_a_network_that_takes_twenty_milliseconds_is_timed_so() -> None:
    (found,) = taken(Sleeping(each=0.02))
    assert 20 <= found.latency_ms_p50 < 60
    assert found.latency_ms_p50 <= found.latency_ms_p95 <= found.latency_ms_p99


def test_a_file_four_times_as_slow_is_found_so_and_the_interval_contains_the_factor() -> None:
    slow, fast = taken(Sleeping(each=0.04), Sleeping(each=0.01), rounds=5)
    ratio = speedup(fast, slow)
    assert ratio.low <= ratio.value <= ratio.high
    assert 2 < ratio.value < 5


def test_a_ratio_pairs_rounds_so_that_drift_cancels() -> None:
    def drifting(factor: float) -> Timing:
        return Timing(1, 1, 1, 1, 1, 1, None, None, None, tuple(factor * drift for drift in (1.0, 3.0, 9.0, 27.0)))

    ratio = speedup(drifting(1.0), drifting(2.0))
    assert (ratio.low, ratio.value, ratio.high) == (2, 2, 2)


def test_an_uncertain_ratio_has_a_wide_interval() -> None:
    base = Timing(1, 1, 1, 1, 1, 1, None, None, None, (1.0, 1.0, 1.0, 1.0, 1.0))
    noisy = Timing(1, 1, 1, 1, 1, 1, None, None, None, (0.5, 0.8, 1.0, 1.25, 2.0))
    ratio = speedup(noisy, base)
    assert ratio.value == 1
    assert ratio.low < 0.9
    assert ratio.high > 1.1


def test_what_costs_a_call_and_not_an_image_is_best_in_large_batches() -> None:
    (found,) = taken(Sleeping(call=0.02), largest_batch=8)
    assert found.throughput_batch == 8
    assert 2 / 0.02 < found.throughput_per_s <= 8 / 0.02


def test_a_file_of_one_image_at_a_time_is_tried_with_no_larger_batch() -> None:
    (found,) = taken(Sleeping(call=0.002, free_batch=False), largest_batch=8)
    assert found.throughput_batch == 1


def test_memory_is_that_of_the_process_of_the_file() -> None:
    small, large = taken(Sleeping(), Sleeping(megabytes=50))
    assert small.peak_memory_bytes is not None
    assert large.peak_memory_bytes is not None
    assert large.peak_memory_bytes - small.peak_memory_bytes > 45e6


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("load", "0.file cannot be loaded"),
        ("run", "0.file: the runtime gave up"),
        ("die", "0.file: its process ended with exit code 7"),
    ],
)
def test_a_file_that_fails_is_named_in_one_line(fails: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        taken(Sleeping(fails=fails))
    assert str(caught.value) == said


def test_no_other_command_measures_meanwhile_and_the_lock_is_released_afterwards(lock: Path) -> None:
    import threading

    refused = []

    def trying() -> None:
        time.sleep(0.3)
        try:
            with FileLock(lock, timeout=0):
                refused.append(False)
        except Timeout:
            refused.append(True)

    thread = threading.Thread(target=trying)
    thread.start()
    taken(Sleeping(), seconds=1.0)
    thread.join()
    assert refused == [True]
    with pytest.raises(InputError):
        taken(Sleeping(fails="run"))
    with FileLock(lock, timeout=0) as free:
        assert free.is_locked


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"threads": 0}, "threads"),
        ({"rounds": 0}, "rounds"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"largest_batch": 0}, "largest_batch"),
    ],
)
def test_a_clock_that_measures_nothing_is_refused(given: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key} must be"):
        Clock(**{"threads": 1, "seconds": 1.0, "rounds": 1, "largest_batch": 1, **given})
