"""The row that a survey is known by is chosen by validation data, and is one row."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.reporting.best import best
from tests.tracking.rows import row


@pytest.mark.parametrize(
    ("validation", "sizes", "chosen"),
    [
        ([0.90, 0.895, 0.85], [1000, 400, 200], "b"),  # the smallest within one point
        ([0.90, 0.89, 0.91], [1000, 400, 400], "c"),  # of equal bytes the more accurate one
        ([0.90, 0.80, 0.85], [1000, 400, 600], "c"),  # all lose more: the least
    ],
)
def test_the_smallest_file_within_a_point_of_validation_accuracy(
    tmp_path: Path, validation: list[float], sizes: list[int], chosen: str
) -> None:
    names = ("baseline", "b", "c")
    rows = [
        row(tmp_path, name, accuracy=0.99 if name == "b" else 0.5, accuracy_validation=share, size_bytes=size)
        for name, share, size in zip(names, validation, sizes, strict=True)
    ]
    found = best(rows)
    assert found is not None
    assert found.variant == chosen


def test_a_baseline_alone_is_the_best_and_nothing_has_none(tmp_path: Path) -> None:
    alone = row(tmp_path, "baseline")
    assert best([alone]) is alone
    assert best([]) is None
