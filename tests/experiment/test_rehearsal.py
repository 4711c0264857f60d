"""What cannot work is found out before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.contracts import InputError
from src.experiment.plan import Plan
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


def odd(name: str, *overrides: str) -> Plan:
    return plan("model=custom", f"model._target_=tests.odd_networks.{name}", *overrides)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (
            lambda: odd("AlwaysDrops"),
            r"odd_networks.py:\d+ \(return functional.dropout.*draws random numbers.*self.training",
        ),
        (
            lambda: odd("SinglePixels", "training.batch_size=1"),
            "cannot be trained: Expected more than 1 value per channel",
        ),
        (lambda: odd("ViewsItsMaps"), "cannot be trained: view size is not compatible"),
        (
            lambda: odd("Plain", "target=onnxruntime_cuda"),
            "target.onnxruntime_cuda: its runtime fails .* no CUDAExecutionProvider",
        ),
    ],
)
def test_a_network_that_cannot_work_is_refused_with_its_reason(made: Callable[[], Plan], says: str) -> None:
    refused = made()
    with pytest.raises(InputError, match=says):
        rehearse(refused, refused.data.value.load())


@pytest.mark.parametrize("method", ["baseline", "prune_magnitude", "distill"])
def test_a_step_of_training_is_made_on_two_images_and_changes_no_weight(method: str) -> None:
    made = odd("SinglePixels", f"method={method}", "data.calibration_images=1")
    splits = made.data.value.load()
    assert rehearse(made, splits).model(torch.zeros(1, *splits.image_shape)).shape == (1, len(splits.classes))


def test_a_library_that_fails_on_a_network_is_named_with_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.methods.prune.Prune.compress", lambda *_: [][0])
    made = odd("Plain", "method=prune_magnitude")
    with pytest.raises(InputError, match=r"prune_magnitude: the method cannot work on this network \(IndexError: "):
        rehearse(made, made.data.value.load())
