"""Records and the version of their schema."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from src.contracts import InputError
from src.files.records import SCHEMA, read_record, write_record


def test_a_record_comes_back_with_its_schema(tmp_path: Path) -> None:
    content = {"name": "Größe", "rows": [{"accuracy": 0.1, "energy_uj": None}]}
    write_record(tmp_path / "r.json", content)
    assert read_record(tmp_path / "r.json") == {"schema": SCHEMA, **content}


def test_the_text_is_readable_json_whose_first_key_is_the_schema(tmp_path: Path) -> None:
    write_record(tmp_path / "r.json", {"name": "Größe", "schema": 1})
    text = f'{{\n "schema": {SCHEMA},\n "name": "Größe"\n}}\n'
    assert (tmp_path / "r.json").read_bytes() == text.encode()


def test_a_record_that_names_no_schema_is_of_schema_1(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"rows": []}')
    assert read_record(tmp_path / "r.json") == {"schema": 1, "rows": []}


def test_a_later_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema": SCHEMA + 1}))
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert str(caught.value) == (
        f"{path} is of schema {SCHEMA + 1}, and this version reads up to {SCHEMA}: update the workbench"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"rows": [', "Expecting value"),
        (b"\xff", "invalid start byte"),
        (b"[]", "it holds no object"),
        (b'{"schema": "two"}', "its schema is 'two'"),
        (b'{"rows": [{"a": 1, "a": 2}]}', 'the key "a" is there twice in one object'),
        (b'{"accuracy": NaN}', "NaN is no number"),
        (b'{"rows": ' + b"[" * 100_000, "it is nested too deeply"),
    ],
    ids=["empty", "cut off", "no text", "a list", "a word", "twice", "nan", "deep"],
)
def test_a_damaged_record_is_named_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_record_is_missing_and_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "r.json")


@pytest.mark.parametrize(("value", "error"), [(math.nan, ValueError), (math.inf, ValueError), (Path("x"), TypeError)])
def test_what_json_cannot_hold_is_an_error_and_keeps_the_old_record(
    tmp_path: Path, value: Any, error: type[Exception]
) -> None:
    write_record(tmp_path / "r.json", {"value": 1})
    with pytest.raises(error):
        write_record(tmp_path / "r.json", {"value": value})
    assert read_record(tmp_path / "r.json")["value"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
