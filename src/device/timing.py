"""Timing single calls after a warm-up."""

import time
from typing import Callable, Dict, List, Optional

import numpy as np

BLOCK_CALLS = 10  # least number of calls in a block of the warm-up
BLOCK_SHARE = 0.05  # least duration of a block, as a share of the warm-up's limit


def warm_up(call: Callable[[], object], limit_seconds: float = 2.0, within: float = 0.03) -> bool:
    """Call until the medians of two successive blocks of calls agree, or the time limit is reached.

    Args:
        call: The call that will be timed.
        limit_seconds: Time limit; at least one call is made.
        within: Largest difference of the two medians, as a share of the earlier one.

    Returns:
        Whether the medians agreed.
    """
    end = time.perf_counter() + limit_seconds
    before: Optional[float] = None
    while True:
        times: List[float] = []
        block_end = time.perf_counter() + BLOCK_SHARE * limit_seconds
        while len(times) < BLOCK_CALLS or time.perf_counter() < block_end:
            times.append(_seconds(call))
            if time.perf_counter() >= end:
                return False
        median = float(np.median(times))
        if before is not None and abs(median - before) <= within * before:
            return True
        before = median


def timed(call: Callable[[], object], seconds: float, least_runs: int = 50) -> List[float]:
    """Time single calls, one after the other.

    Args:
        call: The call.
        seconds: Time to spend.
        least_runs: Least number of calls, however long they take.

    Returns:
        Seconds that each call took.
    """
    times: List[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least_runs or time.perf_counter() < end:
        times.append(_seconds(call))
    return times


def percentiles(times: List[float]) -> Dict[str, float]:
    """``p50``, ``p95`` and ``p99`` of ``times`` (seconds) in milliseconds, interpolated linearly."""
    values = np.percentile(times, [50, 95, 99]) * 1000
    return {"p50": float(values[0]), "p95": float(values[1]), "p99": float(values[2])}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
