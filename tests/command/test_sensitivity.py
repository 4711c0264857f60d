"""The command, as a user runs it, and what its file is good for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.primitives.distributions import BySensitivity
from tests.plans import plan

ROOT = Path(__file__).parents[2]
SMALL = ["model.blocks=[[8],[16]]", "model.dense=32", "training.epochs=3", "training.threads=1"]


@pytest.mark.slow
def test_a_table_a_picture_and_a_file_that_methods_take(tmp_path: Path) -> None:
    tried = ["sensitivity.sparsity=[0.5,0.9]", "sensitivity.bits=[2,8]", "sensitivity.clusters=[4]"]
    said = subprocess.run(
        [sys.executable, "-m", "src.sensitivity", "+experiment=digits_quickstart", *SMALL, *tried],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "s=0.5" in said.stdout
    assert "Advice:" in said.stdout
    (folder,) = (tmp_path / "outputs" / "sensitivity" / "small_cnn").iterdir()
    assert (folder / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    file = folder / "sensitivity.json"
    record = json.loads(file.read_text())
    assert record["data"] == "digits"
    for layer in record["layers"].values():
        assert list(layer["sparsity"]) == ["0.5", "0.9"]
        assert list(layer["clusters"]) == ["4"]
    assert set(record["int8"]["snr_db"]) == set(record["layers"])
    assert set(BySensitivity(file=str(file)).curves) == set(record["layers"])
    mixed = plan(
        "method=quantize_mixed",
        "method.bits.choices=[2,8]",
        "method.bits.cost._target_=src.primitives.allocations.MeasuredSensitivity",
        f"+method.bits.cost.file={file}",
        "~method.bits.cost.draws",
    )
    assert list(mixed.steps) == ["quantize_mixed"]


@pytest.mark.slow
def test_a_grid_that_cannot_be_tried_is_answered_in_a_line(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "src.sensitivity", "+experiment=digits_quickstart", "sensitivity.bits=[17]"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2
    assert said.stderr.strip() == "sensitivity.bits must be a whole number from 1 to 16, and is 17"
