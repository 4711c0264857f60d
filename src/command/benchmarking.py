"""Exported files measured on this machine, as a table for a person."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.command.composition import target_of
from src.command.prediction import normalized
from src.contracts import InputError, ModelCard, Target
from src.contracts.formats import size
from src.display.tables import aligned
from src.metrics.energy import energy_uj_estimate
from src.metrics.size import parts_of, size_bytes
from src.metrics.timing import Clock, Timing, speedup, time_files

HEADINGS = (
    "file",
    "runtime",
    "p50",
    "p95",
    "p99",
    "faster than the first",
    "images/s",
    "load",
    "memory",
    "energy",
    "size",
)


@dataclass(frozen=True)
class ExportedFile:
    """A file to measure.

    Attributes:
        path: The file.
        target: What loads it.
        card: What the file says of itself.
    """

    path: Path
    target: Target
    card: ModelCard


def clock_of(threads: int, seconds: float, rounds: int, largest_batch: int) -> Clock:
    """The clock that the command's options describe; raises InputError if one of them is wrong."""
    try:
        return Clock(threads=threads, seconds=seconds, rounds=rounds, largest_batch=largest_batch)
    except ValueError as error:
        raise InputError(f"--{str(error).replace('_', '-')}") from error


def benchmark(files: Sequence[Path], clock: Clock, operators: int | None, *, trust: bool = False) -> Iterator[str]:
    """Time files in turns.

    Args:
        files: The files; ratios are to the first.
        clock: How they are timed.
        operators: Number of operators to list for each file, the longest first; None lists none.
        trust: Whether the ``config.yaml`` beside a file may name any class.

    Yields:
        The lines of the table, then each file's operators.

    Raises:
        InputError: A file cannot be read or run, or the files take images of different shapes.
    """
    if operators is not None and operators < 1:
        raise InputError(f"--operators must be a whole number from 1, and is {operators}")
    opened = [_opened(path, trust) for path in files]
    shapes = {file.card.image_shape for file in opened}
    if len(shapes) > 1:
        raise InputError(f"the files take images of different shapes: {', '.join(map(str, sorted(shapes)))}")
    image = _noise(opened[0].card)
    timings = time_files([(file.target, file.path) for file in opened], image, clock)
    yield f"{clock.threads} thread{'s' * (clock.threads > 1)}, {clock.seconds:g} s each in {clock.rounds} turns"
    yield from _table(opened, timings)
    if operators is not None:
        for file in opened:
            yield from _operators(file, image, clock.threads, operators)


def _opened(path: Path, trust: bool) -> ExportedFile:
    target = target_of(path, trust=trust)
    return ExportedFile(path, target, target.read_card(path))


def _noise(card: ModelCard) -> np.ndarray:
    """A normalized image of noise, ``[1, c, h, w]``: a network's time does not depend on what the image shows."""
    pixels = np.random.default_rng(0).random((1, *card.image_shape), dtype=np.float32)
    return np.ascontiguousarray(normalized(pixels, card))


def _table(files: Sequence[ExportedFile], timings: Sequence[Timing]) -> list[str]:
    names = _names([file.path for file in files])
    each = zip(names, files, timings, strict=True)
    cells = [_cells(name, file, timing, timings[0]) for name, file, timing in each]
    return aligned([HEADINGS, *cells], left=2)


def _names(files: Sequence[Path]) -> list[str]:
    """The paths below the folder that all files have in common."""
    folder = os.path.commonpath([file.absolute().parent for file in files])
    return [os.path.relpath(file.absolute(), folder) for file in files]


def _cells(name: str, file: ExportedFile, timing: Timing, first: Timing) -> list[str]:
    ratio = speedup(timing, first)
    memory = timing.peak_memory_bytes
    return [
        name,
        str(file.target.runtime),
        f"{timing.latency_ms_p50:.3f} ms",
        f"{timing.latency_ms_p95:.3f} ms",
        f"{timing.latency_ms_p99:.3f} ms",
        "-" if timing is first else f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})",
        f"{timing.throughput_per_s:,.0f} at batch {timing.throughput_batch}",
        f"{timing.load_ms:.1f} ms",
        "?" if memory is None else size(memory),
        _energy(file, timing),
        size(size_bytes(parts_of(file.target, file.path))),
    ]


def _energy(file: ExportedFile, timing: Timing) -> str:
    """The energy of one image as the machine measured it, else as it is estimated; ``?`` if neither is possible."""
    if timing.energy_uj is not None:
        return f"{timing.energy_uj:,.4g} uJ ({timing.energy_source})"
    try:
        graph = file.target.graph(file.path)
        estimate = energy_uj_estimate(graph, file.target.precision(integer=False).floats)
    except Exception:  # a graph that cannot be read is no reason to lose the times
        return "?"
    return f"{estimate:,.4g} uJ (estimate)"


def _operators(file: ExportedFile, image: np.ndarray, threads: int, count: int) -> list[str]:
    """The file's longest operators by the runtime's own profiler."""
    found = file.target.operators(file.path, image, threads)
    if found is None:
        return ["", f"{file.path}: {file.target.runtime} tells no times of operators here"]
    total = sum(milliseconds for _, _, milliseconds in found) or 1.0
    cells = [[name, kind, f"{ms:.4f} ms", f"{100 * ms / total:.1f} %"] for name, kind, ms in found[:count]]
    table = aligned([["operator", "kind", "median", "share"], *cells], left=2)
    return ["", f"{file.path}, {len(found)} operators:", *table]
