"""Reading the file of a sensitivity analysis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.primitives.sensitivity import read_sensitivity

RECORD = {"accuracy": 0.9, "layers": {"fc.weight": {"sparsity": {"0.5": 0.8}}}}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "sensitivity.json").write_text(json.dumps(RECORD))
    assert read_sensitivity(str(tmp_path / "sensitivity.json")) == RECORD


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sensitivity.json").write_text(json.dumps(RECORD))
    assert read_sensitivity("~/sensitivity.json") == RECORD


@pytest.mark.parametrize("text", ["[1]", "{}", '{"accuracy": 0.9}', '{"layers": {}}'])
def test_json_that_is_no_analysis_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json is no sensitivity analysis \(python -m src.sensitivity makes one"):
        read_sensitivity(str(tmp_path / "x.json"))


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.json cannot be read as a sensitivity analysis"):
        read_sensitivity(str(tmp_path / "missing.json"))
    (tmp_path / "x.json").write_text("accuracy: 0.9")
    with pytest.raises(ValueError, match=r"x\.json cannot be read as a sensitivity analysis"):
        read_sensitivity(str(tmp_path / "x.json"))
