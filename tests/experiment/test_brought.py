"""Whole experiments with networks and checkpoints of others."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from src.contracts import InputError
from tests.plans import experiment, plan

QUICK = ["timing.seconds=0.02", "timing.rounds=2", "timing.largest_batch=2"]


class Auxiliary(nn.Module):
    """As googlenet is, and small: logits of an inner layer in training."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv, self.inner, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes), nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        hidden = self.conv(images).relu().mean((2, 3))
        return (self.fc(hidden), self.inner(hidden)) if self.training else self.fc(hidden)


class OneLogit(nn.Module):
    """One logit for two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv(images).relu().mean((2, 3)))


def test_auxiliary_logits_are_trained_and_leave_no_weight_in_the_files(tmp_path: Path) -> None:
    own = ["model=custom", "model._target_=tests.experiment.test_brought.Auxiliary"]
    first = experiment(plan(*own, *QUICK, "method=prune_magnitude", "method.sparsity=0.5"), tmp_path)
    baseline, pruned = first.run()
    assert baseline.parameters == 8 * 27 + 8 + 8 * 10 + 10
    assert (baseline.agreement, pruned.agreement) == (1.0, 1.0)
    again = experiment(plan(*own, *QUICK, "method=prune_magnitude", "method.sparsity=0.5"), tmp_path).run()
    assert again[0].identity == baseline.identity
    heavier = plan(*own, "training.auxiliary_weight=0.4")
    assert heavier.training.value.auxiliary_weight == 0.4


def test_one_logit_trains_on_two_classes_and_the_file_agrees(tmp_path: Path) -> None:
    two = ["data=custom", "data._target_=tests.own_data.Stripes", "training.batch_size=20"]
    own = ["model=custom", "model._target_=tests.experiment.test_brought.OneLogit"]
    threads = ["training.threads=1", "training.device=cpu", "training.precision=float32", "training.epochs=2"]
    from src.command.composition import build_plan, composed

    (row,) = experiment(build_plan(*composed([*two, *own, *QUICK, *threads])), tmp_path).run()
    assert row.agreement == 1.0
    assert row.logit_difference_max < 1e-4


@pytest.mark.slow
def test_a_trainers_checkpoint_with_another_head_is_trained_on_from_its_weights(tmp_path: Path) -> None:
    """A timm network, its checkpoint under DataParallel in a trainer's dict, another number of classes."""
    trained = timm.create_model("mobilenetv3_small_050", num_classes=100)
    content = {"model": nn.DataParallel(trained).state_dict(), "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, tmp_path / "last.pth.tar")
    chosen = ["model=timm", "model.name=mobilenetv3_small_050", f"model.weights={tmp_path / 'last.pth.tar'}", *QUICK]
    with pytest.raises(InputError, match=r"its head has 100 classes and the data 10; model\.replace_head=true"):
        experiment(plan(*chosen), tmp_path).run()
    tried = experiment(plan(*chosen, "model.replace_head=true"), tmp_path)
    (row,) = tried.run()
    assert row.model == "mobilenetv3_small_050"
    assert row.weights_kept == "best, epoch 1 of 1"
    assert row.agreement == 1.0


@pytest.mark.parametrize("key", ["weights_key=ema", "replace_head=true"])
def test_what_to_take_of_weights_that_are_not_given_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=r"need model\.weights, which is not given"):
        plan(f"model.{key}")


def test_keys_that_are_not_set_change_no_identity() -> None:
    assert set(plan().model.config) & {"weights_key", "replace_head", "output", "weights"} == set()
    assert plan("model.output=logits").model.config["output"] == "logits"
