"""What cannot work is found out before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.contracts import InputError
from src.experiment.rehearsal import rehearse
from tests.plans import experiment, plan

EMPTIED = [
    "method=chain",
    "method.name=pair",
    "+method@method.steps.one=prune_magnitude",
    "method.steps.one.sparsity=0.99",
]
TWICE = ["method=chain", "method.name=twice", "+method@method.steps.one=cluster", "+method@method.steps.two=cluster"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=prune_magnitude", "method.ignored=[clasifier.*]"], "ignored: no weight is called clasifier"),
        (["method=prune_quantize", "method.steps.prune.sparsity=0.0"], "sparsity"),
        (["method=quantize_int8", "data.calibration_images=0"], "calibration"),
        (
            [*TWICE, "method.steps.two.clusters=32"],
            "two: every layer has no more values .* an earlier step has done it",
        ),
        (
            [*EMPTIED, "+method@method.steps.two=cluster", "method.steps.two.clusters=1"],
            "two: .*its zeros take one",  # although the untrained network has layers of which 0.99 leaves nothing
        ),
    ],
)
def test_a_mistake_costs_no_training(overrides: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        experiment(plan(*overrides), tmp_path).run()
    assert not list((tmp_path / "artifacts").glob("*/*.ckpt"))
    assert not list((tmp_path / "artifacts").glob("*/stage.json"))


def test_what_has_no_effect_on_an_untrained_network_is_no_mistake() -> None:
    made = plan("method=low_rank", "method.rank.energy=0.99999")
    rehearse(made, made.data.value.load())
    made = plan("method=prune_magnitude", "model=small_cnn", "method.sparsity=0.99")  # of one layer nothing is left
    rehearse(made, made.data.value.load())
