"""How long one image takes."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.contracts import Session

LOCK = Path(tempfile.gettempdir()) / "dnn-compression-measuring.lock"


@dataclass(frozen=True)
class Latency:
    """Percentiles over ``runs`` single calls, in milliseconds."""

    p50_ms: float
    p95_ms: float
    runs: int


def latency(session: Session, image: np.ndarray, *, seconds: float = 1.0, least_runs: int = 50) -> Latency:
    """Time single calls after a warm-up, while no other run of this machine measures.

    Args:
        session: Loaded with one thread.
        image: ``[1, c, h, w]``, float32.
        seconds: Time to spend on counted calls; a fifth of it goes to the warm-up.
        least_runs: Counted calls at the least.
    """
    from filelock import FileLock

    with FileLock(LOCK, mode=0o666):
        end = time.perf_counter() + seconds / 5
        while time.perf_counter() < end:
            session(image)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < least_runs or time.perf_counter() < end:
            start = time.perf_counter()
            session(image)
            times.append(time.perf_counter() - start)
    p50, p95 = np.percentile(times, [50, 95]) * 1000
    return Latency(float(p50), float(p95), len(times))
