"""What determines a stage, and what does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from src.stages.identity import identity
from src.stages.specs import Stage, baseline_spec, export_spec, step_spec, timing_spec


@dataclass(frozen=True)
class Compute:
    """Where numbers are computed."""

    device: str
    threads: int


BASELINE: dict[str, Any] = {
    "data": {"_target_": "a.A", "root": "data", "sha256": "ab", "calibration_images": 8, "side": 16},
    "checksum": "cd",
    "model": {"_target_": "b.B", "depth": 8},
    "training": {"epochs": 2},
    "weights_sha256": None,
    "compute": Compute("cpu", 1),
    "seed": 0,
    "made_by": {"code": "0", "versions": {}},
}
STEP: dict[str, Any] = {
    "input_identity": "ef",
    "calibration": "01",
    "method": {"_target_": "c.C"},
    "files": {"method.file": "23"},
    "loss": {"_target_": "d.D"},
    "compute": Compute("cpu", 1),
    "seed": 0,
    "made_by": {"code": "0", "versions": {}},
}


def test_where_data_lie_and_how_many_images_calibrate_determine_no_baseline() -> None:
    moved = {**BASELINE["data"], "root": "/elsewhere", "sha256": None, "calibration_images": 0}
    assert baseline_spec(**{**BASELINE, "data": moved}) == baseline_spec(**BASELINE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", {**BASELINE["data"], "side": 8}),
        ("checksum", "other"),
        ("model", {"_target_": "b.B", "depth": 14}),
        ("training", None),
        ("weights_sha256", "45"),
        ("compute", Compute("cuda", 1)),
        ("seed", 1),
        ("made_by", {"code": "1", "versions": {}}),
    ],
)
def test_everything_else_determines_a_baseline(name: str, value: object) -> None:
    assert identity(baseline_spec(**{**BASELINE, name: value})) != identity(baseline_spec(**BASELINE))


@pytest.mark.parametrize("name", STEP)
def test_each_argument_determines_a_step(name: str) -> None:
    other = {**STEP, name: 1 if name == "seed" else Compute("cpu", 2) if name == "compute" else {"other": 1}}
    assert identity(step_spec(**other)) != identity(step_spec(**STEP))


def test_kinds_differ_and_a_stage_is_named_by_its_spec() -> None:
    made_by = {"code": "0", "versions": {}}
    export = export_spec(input_identity="ef", classes=("a",), target={}, machine="m", made_by=made_by)
    timing = timing_spec(exports=["ef"], clock=Compute("cpu", 1), machine="m", made_by=made_by)
    specs = [baseline_spec(**BASELINE), step_spec(**STEP), export, timing]
    assert [spec["kind"] for spec in specs] == ["baseline", "step", "export", "timing"]
    stage = Stage.of("export x", export)
    assert (stage.name, stage.spec, stage.identity) == ("export x", export, identity(export))
    assert timing["clock"] == {"device": "cpu", "threads": 1}  # values that JSON can hold
