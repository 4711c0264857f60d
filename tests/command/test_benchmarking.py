"""The lines of a benchmark, of targets whose times are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.command import benchmarking
from src.contracts import Graph, InputError, ModelCard, Precision, Runtime, Session, Target
from src.metrics.timing import Clock, Timing

CLOCK = Clock(threads=2, seconds=0.5, rounds=3, largest_batch=1)
TIMING = Timing(1.0, 1.5, 2.0, 1000.0, 8, 3.0, 5_000_000, 120.0, "RAPL", (1.0, 1.0, 1.0))


class MadeUp(Target):
    """A target whose file is the size of its images."""

    ending = "txt"

    @property
    def runtime(self) -> Runtime:
        return Runtime("madeup")

    def precision(self, integer: bool) -> Precision:
        return Precision(("float32",))

    def export(self, *_: Any) -> tuple[Path, ...]:
        raise NotImplementedError

    def load(self, path: Path, threads: int = 1) -> Session:
        raise NotImplementedError

    def graph(self, path: Path) -> Graph:
        raise ValueError("it has no graph")

    def read_card(self, path: Path) -> ModelCard:
        side = int(path.read_text())
        return ModelCard(("a", "b"), (1, side, side), (0.5,), (0.25,), "")


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second file is twice as fast as the first; nothing tells its energy or memory."""
    second = replace(TIMING, rounds_ms=(0.5, 0.5, 0.5), energy_uj=None, energy_source=None, peak_memory_bytes=None)
    monkeypatch.setattr(benchmarking, "target_of", lambda path, trust: MadeUp())
    monkeypatch.setattr(benchmarking, "time_files", lambda files, image, clock: [TIMING, second][: len(files)])


def files(folder: Path, *sides: int) -> Sequence[Path]:
    paths = [folder / f"{at}.txt" for at in range(len(sides))]
    for path, side in zip(paths, sides, strict=True):
        path.write_text(str(side))
    return paths


def test_a_line_says_all_that_was_measured_and_how_much_faster_than_the_first_file_it_is(tmp_path: Path) -> None:
    heading, columns, first, second = benchmarking.benchmark(files(tmp_path, 28, 28), CLOCK, None)
    assert heading == "2 threads, 0.5 s each in 3 turns"
    assert [column for column in benchmarking.HEADINGS if column not in columns] == []
    assert first.split("  ")[0] == "0.txt"
    for cell in ("madeup", "1.000 ms", "1,000 at batch 8", "5.00 MB", "120 uJ (RAPL)", " - ", "2 B"):
        assert cell in first
    assert "2.00x (2.00 to 2.00)" in second
    assert second.count("?") == 2


def test_files_for_images_of_different_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images of different shapes: \(1, 28, 28\), \(1, 32, 32\)"):
        list(benchmarking.benchmark(files(tmp_path, 28, 32), CLOCK, None))


def test_a_runtime_without_a_profiler_says_so(tmp_path: Path) -> None:
    *_, blank, line = benchmarking.benchmark(files(tmp_path, 28), CLOCK, 3)
    assert (blank, line) == ("", f"{tmp_path / '0.txt'}: madeup tells no times of operators here")


def test_a_wrong_option_is_called_as_the_user_wrote_it() -> None:
    with pytest.raises(InputError, match="^--largest-batch must be a whole number from 1, and is 0$"):
        benchmarking.clock_of(threads=1, seconds=1.0, rounds=1, largest_batch=0)
