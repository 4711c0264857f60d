"""Measure exported files on this machine: ``python -m src.benchmark FILE…``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import command

if TYPE_CHECKING:
    from src.contracts import ModelCard, Target
    from src.metrics.timing import Clock, Timing

USAGE = """\
All files are timed in turns, each in a process of its own; ratios are to the first file, with 95 % confidence
intervals. Memory is that of the process, Python and the runtime included. Energy is the machine's own counter's where
it has one, else an estimate from counted operations and bytes (45 nm, Horowitz 2014).
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.benchmark", description=__doc__, epilog=USAGE)
    parser.add_argument("files", type=Path, nargs="+", metavar="file", help="outputs/…/quantize_int8.onnxruntime.onnx")
    parser.add_argument("--threads", type=int, default=1, help="of each file (1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of counted calls for each file (3)")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each file (20)")
    parser.add_argument("--largest-batch", type=int, default=128, help="tried for throughput (128)")
    parser.add_argument("--operators", type=int, metavar="N", help="also show the N operators that take longest")
    given = parser.parse_args()
    return command.run_command(
        lambda: benchmark(given.files, given.threads, given.seconds, given.rounds, given.largest_batch, given.operators)
    )


def benchmark(
    files: Sequence[Path], threads: int, seconds: float, rounds: int, largest_batch: int, operators: int | None
) -> int:
    """Print the table, and for each file its longest operators where they are asked for."""
    from src.composition import target_of
    from src.contracts import InputError
    from src.metrics.timing import Clock, time_files

    try:
        clock = Clock(threads=threads, seconds=seconds, rounds=rounds, largest_batch=largest_batch)
    except ValueError as error:
        raise InputError(f"--{str(error).replace('_', '-')}") from error
    if operators is not None and operators < 1:
        raise InputError(f"--operators must be a whole number from 1, and is {operators}")
    targets = [target_of(file) for file in files]
    cards = [target.read_card(file) for target, file in zip(targets, files, strict=True)]
    shapes = {card.image_shape for card in cards}
    if len(shapes) > 1:
        raise InputError(f"the files take images of different shapes: {', '.join(map(str, sorted(shapes)))}")
    image = _image(cards[0])
    timings = time_files(list(zip(targets, files, strict=True)), image, clock)
    for line in _table(files, targets, timings, clock):
        print(line)
    for target, file in zip(targets, files, strict=True):
        if operators is not None:
            print(*_operators(target, file, image, threads, operators), sep="\n")
    return command.DONE


def _image(card: ModelCard) -> Any:
    """A normalized image of noise, ``[1, c, h, w]``: how long a network takes does not depend on what it sees."""
    import numpy as np

    pixels = np.random.default_rng(0).random((1, *card.image_shape), dtype=np.float32)
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (card.mean, card.std))
    return np.ascontiguousarray((pixels - mean) / std)


def _table(files: Sequence[Path], targets: Sequence[Target], timings: Sequence[Timing], clock: Clock) -> list[str]:
    from src.console import aligned, size
    from src.metrics.size import parts_of, size_bytes
    from src.metrics.timing import speedup

    rows = [
        [
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
        ]
    ]
    for name, file, target, timing in zip(_names(files), files, targets, timings, strict=True):
        ratio = speedup(timing, timings[0])
        energy, how = timing.energy_uj, timing.energy_source
        if energy is None:
            energy, how = _estimated_energy(target, file), "estimate"
        rows.append(
            [
                name,
                target.runtime,
                *(f"{getattr(timing, f'latency_ms_{name}'):.3f} ms" for name in ("p50", "p95", "p99")),
                "-" if timing is timings[0] else f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})",
                f"{timing.throughput_per_s:,.0f} at batch {timing.throughput_batch}",
                f"{timing.load_ms:.1f} ms",
                "?" if timing.peak_memory_bytes is None else size(timing.peak_memory_bytes),
                "?" if energy is None else f"{energy:,.4g} uJ ({how})",
                size(size_bytes(parts_of(target, file))),
            ]
        )
    threads = f"{clock.threads} thread" + "s" * (clock.threads > 1)
    return [f"{threads}, {clock.seconds:g} s each in {clock.rounds} turns", *aligned(rows, left=2)]


def _names(files: Sequence[Path]) -> list[str]:
    """The paths without the folder that all of them are in."""
    import os

    folder = os.path.commonpath([file.absolute().parent for file in files])
    return [os.path.relpath(file.absolute(), folder) for file in files]


def _estimated_energy(target: Target, file: Path) -> float | None:
    from src.metrics.energy import energy_uj_estimate
    from src.metrics.rows import arithmetic

    try:
        return energy_uj_estimate(target.graph(file), arithmetic(target.precision(False)))
    except Exception:  # a graph that cannot be read is no reason to lose the times
        return None


def _operators(target: Target, file: Path, image: Any, threads: int, count: int) -> list[str]:
    from src.console import aligned

    profile = getattr(target, "operators", None)
    if profile is None:
        return ["", f"{file}: {target.runtime} tells no times of operators here"]
    found = profile(file, image, threads)
    total = sum(took for _, _, took in found) or 1.0
    rows = [["operator", "kind", "median", "share"]]
    rows += [[name, kind, f"{took:.4f} ms", f"{100 * took / total:.1f} %"] for name, kind, took in found[:count]]
    return ["", f"{file}, {len(found)} operators:", *aligned(rows, left=2)]


if __name__ == "__main__":
    sys.exit(main())
