"""What cannot work is found out before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.contracts import InputError
from tests.plans import experiment, plan


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=prune_magnitude", "method.ignored=[clasifier.*]"], "ignored: no weight is called clasifier"),
        (["method=prune_quantize", "method.steps.prune.sparsity=0.0"], "sparsity"),
        (["method=quantize_int8", "data.calibration_images=0"], "calibration"),
    ],
)
def test_a_mistake_costs_no_training(overrides: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        experiment(plan(*overrides), tmp_path).run()
    assert not list((tmp_path / "artifacts").glob("*/*.ckpt"))
    assert not list((tmp_path / "artifacts").glob("*/stage.json"))
