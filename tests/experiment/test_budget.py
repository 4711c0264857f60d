"""A budget judges the file that ships, and says by how much it is missed."""

from __future__ import annotations

import pytest

from src.contracts import Refused
from src.experiment.budget import LIMITED, Budget
from tests.rows import row, variant

NONE = dict.fromkeys(LIMITED)


def test_the_limits_are_those_that_columns_declare() -> None:
    assert set(LIMITED) == {
        "accuracy_drop",
        "size_bytes",
        "size_gzip_bytes",
        "size_packed_bytes",
        "latency_ms",
        "energy_uj",
    }


@pytest.mark.parametrize(
    ("limit", "changes", "says"),
    [
        ({"accuracy_drop": 0.01}, {"accuracy_validation": 0.8}, "validation accuracy fell by 0.1100, allowed are 0.01"),
        ({"size_bytes": 999}, {"size_bytes": 1000}, "the file has 1,000 bytes, allowed are 999"),
        (
            {"size_packed_bytes": 99},
            {"size_packed_bytes": None},
            "the weights were not packed",
        ),
        ({"size_gzip_bytes": 99}, {"size_gzip_bytes": 2000}, "gzipped, the file has 2,000 bytes, allowed are 99"),
        ({"latency_ms": 0.1}, {"latency_ms_p50": 0.25}, "one image takes 0.250 ms, allowed are 0.1"),
        ({"latency_ms": 0.1}, {"latency_ms_p50": None}, "latency was not measured, so that 0.1 ms cannot be kept"),
        ({"energy_uj": 5}, {"energy_uj_estimate": 7.5}, "one image takes about 7.5 uJ, allowed are 5"),
        ({"energy_uj": 5}, {"energy_uj_estimate": None}, "energy cannot be estimated, so that 5 uJ cannot be kept"),
    ],
)  # fmt: skip
def test_a_missed_limit_is_one_line(limit: dict, changes: dict, says: str) -> None:
    rows = [row(), variant("small", **changes)]
    assert Budget(**{**NONE, **limit}).misses(rows) == [f"small on onnxruntime: {says}"]


def test_a_limit_that_is_just_kept_is_kept() -> None:
    rows = [row(accuracy_validation=0.9), variant("small", accuracy_validation=0.895, size_bytes=100)]
    assert Budget(accuracy_drop=0.005, size_bytes=100).misses(rows) == []


def test_the_baseline_is_judged_only_if_it_is_alone() -> None:
    assert Budget(size_bytes=10).misses([row()]) == [
        "baseline on onnxruntime: the file has 1,000,000 bytes, allowed are 10"
    ]
    assert Budget(size_bytes=10).misses([row(), variant("small", size_bytes=5)]) == []


def test_an_accuracy_without_a_baseline_and_a_variant_without_a_file_miss() -> None:
    small = variant("small", target="tflite")
    assert Budget(accuracy_drop=0.01).misses([row(), small], [Refused("int8", "tflite", "why")]) == [
        "int8 on tflite: there is no file",
        "small on tflite: the baseline has no file to compare its accuracy with",
    ]
    assert Budget(**NONE).misses([small], [Refused("int8", "tflite", "why")]) == []


@pytest.mark.parametrize(
    ("limit", "error", "says"),
    [
        ({"size_bytes": -5}, ValueError, "size_bytes must be more than 0, and is -5"),
        ({"latency_ms": "fast"}, ValueError, "latency_ms must be a number, and is 'fast'"),
        ({"energy_uj": True}, ValueError, "energy_uj must be a number, and is True"),
        ({"size_mb": 1}, TypeError, "unexpected keyword argument 'size_mb'"),
    ],
)
def test_a_wrong_limit_is_refused(limit: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Budget(**limit)
