"""Timing exported files: each is loaded in a process of its own, and all are timed in turns."""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from src.contracts import BY_NAME, InputError, Session, Target

LOCK = Path(tempfile.gettempdir()) / "dnn-compression-measuring.lock"
LONGEST_WARM_UP = 2.0  # seconds of calls before the first that counts; less if the counted ones take less
LONGEST_CALL = 0.5  # seconds that a call may take; no larger batch is tried
RESAMPLES = 2000  # of the rounds, for a confidence interval
PRELOADED = [__name__]  # modules imported by the server that the processes of the files are forked from


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How files are timed.

    Attributes:
        threads: Number of threads that each file runs with.
        seconds: Time in which the calls of each file are counted.
        rounds: Number of rounds that this time is divided into; each file has a turn in each round, so that a machine
            that gets slower or faster affects all files alike.
        largest_batch: Largest batch that is tried for throughput; 1 tries no other than single images.
    """

    threads: int
    seconds: float
    rounds: int
    largest_batch: int

    def __post_init__(self) -> None:
        for name in ("threads", "rounds", "largest_batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1, and is {value}")
        if not isinstance(self.seconds, (int, float)) or not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds must be more than 0, and is {self.seconds}")


@dataclass(frozen=True)
class Timing:
    """How fast a file runs on this machine.

    Attributes:
        latency_ms_p50, latency_ms_p95, latency_ms_p99: Percentiles of the time of one image.
        throughput_per_s: Images in a second at the best batch.
        throughput_batch: Number of images in that batch.
        load_ms: Time to load the file after its runtime was imported.
        peak_memory_bytes: Peak memory of its process while it loads and runs single images, its runtime included, less
            the memory of Python before that; None if the system does not tell.
        energy_uj: Energy of one image by the machine's own counters, with everything else that runs on it; None if the
            machine has no counter.
        energy_source: Name of the counter; None if there is none.
        rounds_ms: The median time of each round; rounds of files that were timed together are pairs.
    """

    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    throughput_per_s: float
    throughput_batch: int
    load_ms: float
    peak_memory_bytes: int | None
    energy_uj: float | None
    energy_source: str | None
    rounds_ms: tuple[float, ...]

    def columns(self) -> dict[str, Any]:
        """The columns of a result row, by name."""
        return {name: value for name, value in asdict(self).items() if name in BY_NAME}


class UntimedError(InputError):
    """A file cannot be loaded, or fails when it is run.

    Attributes:
        path: The file.
        reason: Why, without its path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason.removeprefix(f"{path}: ").replace(str(path), "the file")
        super().__init__(reason if str(path) in reason else f"{path}: {reason}")


@dataclass(frozen=True)
class Ratio:
    """How many times faster a file is than another.

    Attributes:
        value: The factor.
        low, high: Ends of its 95 % confidence interval.
    """

    value: float
    low: float
    high: float


def speedup(timing: Timing, base: Timing) -> Ratio:
    """How many times faster ``timing`` is than ``base``: the median over paired rounds, its interval by resampling."""
    ratios = np.array(base.rounds_ms) / np.array(timing.rounds_ms)
    drawn = np.random.default_rng(0).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def time_files(files: Sequence[tuple[Target, Path]], image: np.ndarray, clock: Clock) -> list[Timing]:
    """Time files in turns while no other command of this machine measures.

    Args:
        files: The files, each after the target that loads it.
        image: One normalized image, ``[1, c, h, w]``, float32.
        clock: How they are timed.

    Raises:
        UntimedError: A file cannot be loaded, or fails when it is run.
    """
    from filelock import FileLock

    with FileLock(LOCK, mode=0o666), ExitStack() as stack:
        workers = [stack.enter_context(_Worker(target, path, image, clock.threads)) for target, path in files]
        warm_up_seconds = min(LONGEST_WARM_UP, 2 * clock.seconds)
        loaded = [worker.request("load", warm_up_seconds) for worker in workers]
        turns = [_Turns() for _ in files]
        for number in range(clock.rounds):
            for place in range(len(files)):
                at = (place + number) % len(files)  # so that no file is always the first
                turns[at].add(*workers[at].request("time", clock.seconds / clock.rounds))
        peaks = [worker.request("peak") for worker in workers]
        return [
            _timing(worker, target, clock, **about, turns=taken, peak_memory_bytes=peak)
            for (target, _), worker, about, taken, peak in zip(files, workers, loaded, turns, peaks, strict=True)
        ]


@dataclass
class _Turns:
    """The counted calls of one file: their seconds, the median of each round, and their energy."""

    calls: list[float] = field(default_factory=list)
    rounds_ms: list[float] = field(default_factory=list)
    joules: float = 0.0
    metered_calls: int = 0

    def add(self, seconds: Sequence[float], joules: float | None) -> None:
        """Add a turn; ``joules`` is None if they were not measured."""
        self.calls += seconds
        self.rounds_ms.append(1000 * float(np.median(seconds)))
        if joules is not None:
            self.joules += joules
            self.metered_calls += len(seconds)


def _timing(
    worker: _Worker,
    target: Target,
    clock: Clock,
    *,
    load_ms: float,
    energy_source: str | None,
    turns: _Turns,
    peak_memory_bytes: int | None,
) -> Timing:
    """Find the best batch of a file whose turns are over, and put its figures together."""
    from src.device.timing import percentiles

    latency = percentiles(turns.calls)
    largest = clock.largest_batch if target.free_batch else 1
    per_second, batch = _throughput(worker, 1000 / latency["p50"], clock, largest)
    return Timing(
        latency_ms_p50=latency["p50"],
        latency_ms_p95=latency["p95"],
        latency_ms_p99=latency["p99"],
        throughput_per_s=per_second,
        throughput_batch=batch,
        load_ms=load_ms,
        peak_memory_bytes=peak_memory_bytes,
        energy_uj=1e6 * turns.joules / turns.metered_calls if turns.metered_calls else None,
        energy_source=energy_source,
        rounds_ms=tuple(turns.rounds_ms),
    )


def _throughput(worker: _Worker, single: float, clock: Clock, largest: int) -> tuple[float, int]:
    """The most images in a second and the batch that gives them; the batch is doubled until two in a row gain nothing.

    A batch that fails, as one does for which there is no memory, is the last.

    Args:
        worker: Process of the file.
        single: Images in a second at batch 1.
        clock: How the file is timed.
        largest: Largest batch to try.
    """
    best, batch, without_gain = (single, 1), 2, 0
    while batch <= largest and without_gain < 2 and batch / best[0] < LONGEST_CALL:
        try:
            seconds, _ = worker.request("time", clock.seconds / 10, batch)
        except UntimedError:
            break
        per_second = batch / float(np.median(seconds))
        without_gain = 0 if per_second > best[0] else without_gain + 1
        best = max(best, (per_second, batch))
        batch *= 2
    return best


# The process of one file --------------------------------------------------------------------------------


class _Worker:
    """A process that loads a file and runs it on request; it ends with the ``with`` block.

    Args:
        target: Target that loads the file.
        path: The file.
        image: One normalized image, ``[1, c, h, w]``, float32.
        threads: Number of threads that the file runs with.
    """

    def __init__(self, target: Target, path: Path, image: np.ndarray, threads: int) -> None:
        self.path = path
        clean = multiprocessing.get_context("forkserver")  # its processes have none of this process's threads
        clean.set_forkserver_preload(PRELOADED)
        self.connection, other_end = clean.Pipe()
        self.process = clean.Process(target=_serve, args=(other_end, target, path, image, threads), daemon=True)
        with _own_start_method(), _program_hidden(target):
            self.process.start()
        other_end.close()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def request(self, *request: Any) -> Any:
        """Send a request and return the answer; raise UntimedError if the process failed or died."""
        try:
            self.connection.send(request)
            answer = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.process.join(5)
            raise UntimedError(self.path, f"its process ended with exit code {self.process.exitcode}") from error
        if isinstance(answer, Exception):
            raise UntimedError(self.path, str(answer))
        return answer


@contextmanager
def _own_start_method() -> Iterator[None]:
    """Start processes by ``forkserver`` in the block.

    A new process takes over the start method of this one, and would not know the one that joblib sets.
    """
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


@contextmanager
def _program_hidden(target: Target) -> Iterator[None]:
    """Hide this process's program from processes that start in the block, unless ``target`` is defined in it.

    A new process imports the program of the one that starts it, and so would run a script that calls ``compress``
    without ``if __name__ == "__main__"`` once more.
    """
    main: Any = sys.modules["__main__"]
    names = () if type(target).__module__ == "__main__" else ("__file__", "__spec__")
    hidden = {name: getattr(main, name) for name in names if hasattr(main, name)}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


def _serve(connection: Connection, target: Target, path: Path, image: np.ndarray, threads: int) -> None:
    """Answer requests for one file until the connection is closed."""
    from src.contracts import first_line
    from src.device.sensors import EnergyMeter
    from src.device.timing import timed, warm_up

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other end closes the connection
    before = _memory("VmRSS")
    meter = EnergyMeter()
    session: Session | None = None
    while True:
        try:
            request, *arguments = connection.recv()
        except EOFError:
            return
        answer: Any
        try:
            if request == "load":
                target.load(path, threads)  # imports the runtime
                started = time.perf_counter()
                session = target.load(path, threads)
                answer = {"load_ms": 1000 * (time.perf_counter() - started), "energy_source": meter.source}
                warm_up(partial(session, image), limit_seconds=arguments[0])
            elif request == "time":
                seconds, batch = arguments[0], arguments[1] if len(arguments) > 1 else 1
                images = np.ascontiguousarray(np.repeat(image, batch, axis=0))
                assert session is not None
                if batch > 1:
                    session(images)
                meter.start()
                answer = timed(partial(session, images), seconds, 3), meter.stop()
            else:
                peak = _memory("VmHWM")
                answer = None if peak is None or before is None else peak - before
        except Exception as error:
            answer = error if isinstance(error, InputError) else InputError(f"{path}: {first_line(error)}")
        connection.send(answer)


def _memory(name: str) -> int | None:
    """A figure of ``/proc/self/status`` in bytes; None if there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found: Mapping[str, str] = dict(line.split(":", 1) for line in lines if ":" in line)
    return 1024 * int(found[name].split()[0]) if name in found else None
