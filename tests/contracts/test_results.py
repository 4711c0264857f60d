"""Columns are declared once, and a row is complete."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import pytest

from src.contracts import BY_NAME, COLUMNS, Precision, Row, Runtime
from src.contracts.formats import Bytes, Number, Verdict, Words
from tests.rows import row


def test_every_field_of_a_row_is_a_column_with_a_meaning() -> None:
    assert [column.name for column in COLUMNS] == [field.name for field in fields(Row)]
    assert all(column.meaning for column in COLUMNS)
    assert len({column.heading for column in COLUMNS if column.heading}) == sum(bool(c.heading) for c in COLUMNS)


def test_a_row_cannot_be_built_without_one_of_its_columns() -> None:
    values = asdict(row())
    del values["macs"]
    with pytest.raises(TypeError, match="macs"):
        Row(**values)


def test_a_row_survives_json() -> None:
    whole = row(precision=Precision(("int8", "bf16"), ("float16",)), runtime=Runtime("openvino"))
    assert Row.of(json.loads(json.dumps(asdict(whole)))) == whole


def test_a_column_that_an_older_record_lacks_is_none() -> None:
    record = asdict(row())
    del record["energy_uj_estimate"]
    assert Row.of(record).energy_uj_estimate is None


def test_what_may_be_searched_and_limited_is_a_number() -> None:
    for column in COLUMNS:
        if column.searched or column.limit or column.compared:
            assert isinstance(getattr(row(), column.name), (int, float)), column.name
            assert column.direction is not None, column.name


def test_less_is_better_after_the_sign() -> None:
    assert BY_NAME["accuracy"].sign * 0.9 < BY_NAME["accuracy"].sign * 0.8
    assert BY_NAME["size_bytes"].sign * 10 < BY_NAME["size_bytes"].sign * 20


def test_numbers_leaves_out_words_and_what_is_unknown() -> None:
    numbers = row(macs=None).numbers()
    assert numbers["accuracy"] == 0.9
    assert not {"macs", "variant", "seed", "precision", "accuracy_per_class", "unavailable"} & set(numbers)


@pytest.mark.parametrize(
    ("precision", "words", "integer", "floats"),
    [
        (Precision(("float32",)), "float32", False, "float32"),
        (Precision(("float32",), ("float16",)), "float32, float16 stored", False, "float32"),
        (Precision(("float32",), ("int8", "float16")), "float32, int8 and float16 stored", False, "float32"),
        (Precision(("int8",)), "int8", True, "float32"),
        (Precision(("int8", "bf16"), ("float16",)), "int8 and bf16, float16 stored", True, "bf16"),
        (Precision(("bf16",)), "bf16", False, "bf16"),
    ],
)
def test_a_precision_is_a_value_that_can_be_said(precision: Precision, words: str, integer: bool, floats: str) -> None:
    assert (str(precision), precision.integer, precision.floats) == (words, integer, floats)


@pytest.mark.parametrize(
    ("runtime", "words", "intended"),
    [
        (Runtime("torch"), "torch", "torch"),
        (Runtime("onnxruntime", "CUDAExecutionProvider"), "onnxruntime with CUDAExecutionProvider", "onnxruntime"),
        (Runtime("onnxruntime", stands_in_for="tensorrt"), "onnxruntime for tensorrt", "tensorrt"),
    ],
)
def test_a_runtime_is_a_value_that_can_be_said(runtime: Runtime, words: str, intended: str) -> None:
    assert (str(runtime), runtime.intended) == (words, intended)


def test_formats_by_hand() -> None:
    percent = Number("{:.1f}", scale=100, suffix=" %")
    assert percent([0.5]) == "50.0 %"
    assert percent([0.4, 0.6]) == "50.0 ± 14.1 %"
    assert Number("{:+.1f}")([-0.2, 0.4]) == "+0.1 ± 0.4"
    assert Number("{:.3g}", spread=False)([8, 4]) == "6"
    assert Bytes()([999, 1001]) == "1.00 kB"
    assert Verdict(0.99, "agree", "WRONG")([1.0, 0.98]) == "WRONG"
    assert Words()(["a", "b"]) == "a"
    assert BY_NAME["latency_ms_p50"].text([None]) == "-"
