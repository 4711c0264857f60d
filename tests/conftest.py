"""What all tests share: one thread, no data folder from outside, one tiny drawn data set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import settings

from src.contracts import DataSplits
from src.data.shapes import Shapes
from src.metrics.rows import measure_times
from src.metrics.timing import PRELOADED

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, so that tests share a machine; the user's data folder is not theirs."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)  # what a training of another test left on
    monkeypatch.delenv("DNNC_DATA", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # a command that a test calls sets it
    monkeypatch.setattr("src.experiment.measure_times", _briefly)


PRELOADED.append("onnxruntime")  # imported once a test run instead of once a file


def _briefly(files: Any, splits: Any, batches: Any, clock: Any) -> Any:
    return measure_times(files, splits, batches, replace(clock, seconds=0.02, rounds=2, largest_batch=2))


@pytest.fixture(scope="session")
def splits() -> DataSplits:
    """Drawn shapes of 3x16x16 pixels: 54 train, 6 validate, 20 test, 12 of the 54 calibrate."""
    return Shapes(
        train_images=60,
        test_images=20,
        side=16,
        draw_seed=0,
        root="data",
        sha256=None,
        validation_share=0.1,
        calibration_images=12,
        split_seed=0,
        mean=None,
        std=None,
        augmentation=None,
    ).load()
