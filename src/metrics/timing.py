"""How fast exported files are: each loaded in a process of its own, all timed in turns."""

from __future__ import annotations

import math
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from src.contracts import InputError, Session, Target

LOCK = Path(tempfile.gettempdir()) / "dnn-compression-measuring.lock"
LONGEST_CALL = 0.5  # seconds; larger batches are not tried
RESAMPLED = 2000
PRELOADED = [__name__]  # by the process that those of the files are forked from


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How files are timed.

    Attributes:
        threads: Of each file.
        seconds: Of counted calls for each file.
        rounds: Parts into which they are cut; in each round every file has its turn, so that drift hits all.
        largest_batch: Up to which the best batch for throughput is looked for; 1 looks for none.
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
    """How a file runs on this machine.

    Attributes:
        latency_ms_p50, latency_ms_p95, latency_ms_p99: Of single images.
        throughput_per_s: Images a second at the batch that gives most of them.
        throughput_batch: That batch.
        load_ms: To load the file, its runtime being in memory.
        peak_memory_bytes: Of its process while it loads and runs single images, Python and its runtime included, less
            what Python had before; None where the system does not tell.
        energy_uj: Of a single image, by the machine's own counters, everything else on it included; None where it has
            none.
        energy_source: Which.
        rounds_ms: The median of each round; rounds of files that were timed together pair up.
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
        """What a result row holds of it."""
        return {name: value for name, value in asdict(self).items() if name not in ("rounds_ms", "energy_source")}


@dataclass(frozen=True)
class Ratio:
    """How many times faster a file is than another, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def speedup(ours: Timing, theirs: Timing) -> Ratio:
    """How many times faster ``ours`` is than ``theirs``, by the medians of paired rounds, resampled."""
    ratios = np.array(theirs.rounds_ms) / np.array(ours.rounds_ms)
    drawn = np.random.default_rng(0).integers(0, len(ratios), (RESAMPLED, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def time_files(files: Sequence[tuple[Target, Path]], image: np.ndarray, clock: Clock) -> list[Timing]:
    """Time every file while no other command of this machine does.

    Args:
        files: Each with the target that loads it.
        image: ``[1, c, h, w]``, float32, normalized.
        clock: For how long.

    Raises:
        InputError: A file cannot be loaded, or fails when it is run.
    """
    from filelock import FileLock

    from src.device.timing import percentiles

    with FileLock(LOCK, mode=0o666), ExitStack() as stack:
        workers = [stack.enter_context(_Worker(target, path, image, clock.threads)) for target, path in files]
        loaded = [worker.ask("load") for worker in workers]
        calls: list[list[float]] = [[] for _ in files]
        rounds: list[list[float]] = [[] for _ in files]
        spent = [(0.0, 0)] * len(files)
        for turn in range(clock.rounds):
            for nth in range(len(files)):
                at = (nth + turn) % len(files)  # nobody is always first
                took, energy = workers[at].ask("time", clock.seconds / clock.rounds)
                calls[at] += took
                rounds[at].append(1000 * float(np.median(took)))
                spent[at] = (spent[at][0] + energy, spent[at][1] + len(took)) if energy is not None else spent[at]
        peaks = [worker.ask("peak") for worker in workers]
        timings = []
        for at, worker in enumerate(workers):
            of_one = percentiles(calls[at])
            free = files[at][0].free_batch
            per_second, batch = _throughput(worker, 1000 / of_one["p50"], clock, clock.largest_batch if free else 1)
            joules, counted = spent[at]
            timings.append(
                Timing(
                    of_one["p50"],
                    of_one["p95"],
                    of_one["p99"],
                    per_second,
                    batch,
                    loaded[at]["load_ms"],
                    peaks[at],
                    1e6 * joules / counted if counted else None,
                    loaded[at]["energy_source"],
                    tuple(rounds[at]),
                )
            )
    return timings


def _throughput(worker: _Worker, of_one: float, clock: Clock, largest: int) -> tuple[float, int]:
    """Images a second and the batch that gives them; batches are doubled until two in a row gain nothing."""
    best, batch, without_gain = (of_one, 1), 2, 0
    while batch <= largest and without_gain < 2 and batch / best[0] < LONGEST_CALL:
        took, _ = worker.ask("time", clock.seconds / 10, batch)
        per_second = batch / float(np.median(took))
        without_gain = 0 if per_second > best[0] else without_gain + 1
        best = max(best, (per_second, batch))
        batch *= 2
    return best


# The process of one file --------------------------------------------------------------------------------


class _Worker:
    """A process that holds a loaded file and calls it when asked; ended with the block."""

    def __init__(self, target: Target, path: Path, image: np.ndarray, threads: int) -> None:
        self.path = path
        clean = multiprocessing.get_context("forkserver")  # a process without the threads that this one has
        clean.set_forkserver_preload(PRELOADED)
        self.connection, theirs = clean.Pipe()
        self.process = clean.Process(target=_serve, args=(theirs, target, path, image, threads), daemon=True)
        with _no_launchers_method():
            self.process.start()
        theirs.close()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def ask(self, *what: Any) -> Any:
        """Its answer; raises InputError where it failed or died."""
        try:
            self.connection.send(what)
            answer = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.process.join(5)
            raise InputError(f"{self.path}: its process ended with exit code {self.process.exitcode}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def _no_launchers_method() -> Iterator[None]:
    """Start processes the common way: one takes over how this one starts others, and joblib's way it would not know."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


def _serve(connection: Connection, target: Target, path: Path, image: np.ndarray, threads: int) -> None:
    """Answer what is asked of one file until the connection is closed."""
    from src.contracts import first_line
    from src.device.sensors import EnergyMeter
    from src.device.timing import timed, warm_up

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks closes the connection
    before = _memory("VmRSS")
    meter = EnergyMeter()
    session: Session | None = None
    while True:
        try:
            what, *arguments = connection.recv()
        except EOFError:
            return
        answer: Any
        try:
            if what == "load":
                target.load(path, threads)  # the runtime is imported
                started = time.perf_counter()
                session = target.load(path, threads)
                answer = {"load_ms": 1000 * (time.perf_counter() - started), "energy_source": meter.source}
                warm_up(partial(session, image))
            elif what == "time":
                seconds, batch = arguments[0], arguments[1] if len(arguments) > 1 else 1
                images = np.ascontiguousarray(np.repeat(image, batch, axis=0))
                assert session is not None
                if batch > 1:
                    session(images)
                meter.start()
                took = timed(partial(session, images), seconds, 3)
                answer = took, meter.stop()
            else:
                peak = _memory("VmHWM")
                answer = None if peak is None or before is None else peak - before
        except Exception as error:
            answer = error if isinstance(error, InputError) else InputError(f"{path}: {first_line(error)}")
        connection.send(answer)


def _memory(name: str) -> int | None:
    """A figure of ``/proc/self/status`` in bytes; None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found: Mapping[str, str] = dict(line.split(":", 1) for line in lines if ":" in line)
    return 1024 * int(found[name].split()[0]) if name in found else None
