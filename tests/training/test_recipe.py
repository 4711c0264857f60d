"""Recipes, and where numbers are computed."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch

from src import contracts
from src.training import recipe as module
from src.training.losses import CrossEntropy
from src.training.rates import Constant
from src.training.recipe import WORKERS, Compute, Recipe, cpu_has_bf16, usable_cores


def recipe(**changed: Any) -> Recipe:
    settings: dict[str, Any] = {
        "epochs": 1,
        "batch_size": 4,
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "rate": Constant(),
        "loss": CrossEntropy(label_smoothing=0.0),
        "keep": "last",
    }
    return Recipe(**{**settings, **changed})


def test_the_name_in_configs_is_that_of_the_contract() -> None:
    assert module.Recipe is contracts.Recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, and is 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, and is 0"),
        ({"keep": "first"}, "keep must be one of best, last, and is first"),
        ({"optimizer": partial(torch.optim.SGD, lr=-1.0)}, "optimizer: Invalid learning rate: -1.0"),
        ({"optimizer": partial(torch.optim.SGD, speed=1.0)}, "optimizer: .*speed"),
    ],
)
def test_a_setting_that_cannot_train_is_refused_before_anything_is_trained(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**settings)


@pytest.mark.parametrize(
    ("device", "precision", "threads", "says"),
    [("tpu", "auto", "auto", "device"), ("cpu", "int4", "auto", "precision"), ("cpu", "auto", 0, "threads")],
)
def test_compute_that_does_not_exist_is_refused(device: str, precision: str, threads: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Compute.resolve(device, precision, threads)


def test_what_is_given_is_taken() -> None:
    assert Compute.resolve("cpu", "float32", 3) == Compute("cpu", "float32", 3)


@pytest.mark.parametrize("native", [True, False])
def test_auto_takes_bf16_only_if_the_processor_computes_in_it(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: native)
    assert Compute.resolve("cpu", "auto", 1).precision == ("bf16" if native else "float32")


@pytest.mark.parametrize(("capability", "native"), [("avx512_bf16", True), ("avx512_f", False)])
def test_the_processors_capabilities_tell_of_bf16(
    monkeypatch: pytest.MonkeyPatch, capability: str, native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    assert cpu_has_bf16() is native


def test_a_gpu_that_is_not_there_is_refused_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Compute.resolve("auto", "float32", 1).device == "cpu"
    with pytest.raises(ValueError, match="device is cuda, and this machine has no usable GPU"):
        Compute.resolve("cuda", "float32", 1)


@pytest.mark.parametrize(("workers", "cores"), [("1", 8), ("3", 2), ("99", 1)])
def test_cores_are_shared_among_the_processes_that_run_at_once(
    monkeypatch: pytest.MonkeyPatch, workers: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv(WORKERS, workers)
    assert usable_cores() == cores
    assert Compute.resolve("cpu", "float32", "auto").threads == cores
