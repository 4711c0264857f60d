"""What all tests share: one thread, no data folder from outside, one tiny drawn data set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from absl import logging as absl_logging
from hypothesis import settings

from src.contracts import DataSplits
from src.data.shapes import Shapes
from src.metrics.timing import PRELOADED, time_files

if TYPE_CHECKING:
    from tests.exported import Quantized

MakeStore = Callable[[Path], str]

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("repeatable")

# Hydra closes every handler of logging, and absl's closes its stream unless that is the process's own: here it would be
# the file that pytest captures all output in.
absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


# Files of few and long tests, which run whole commands: they come first, so that no worker is left alone with one.
LONG = ("tests/methods/test_conformance.py", "tests/test_", "tests/command/", "tests/experiment/", "tests/study/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first, in the order of ``LONG``; within each, the order stays."""

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return next((at for at, start in enumerate(LONG) if file.startswith(start)), len(LONG))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, so that tests share a machine; the user's data folder is not theirs."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)  # what a training of another test left on
    monkeypatch.delenv("DNNC_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it, too
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # a command that a test calls sets it
    monkeypatch.setattr("src.metrics.rows.time_files", _time_briefly)
    monkeypatch.setattr("src.metrics.timing.LOCK", LOCK)


# Tests that run beside each other measure nothing that counts: each process of them has a lock of its own.
LOCK = Path(tempfile.gettempdir()) / f"dnn-compression-tests-{os.getpid()}.lock"
PRELOADED.append("onnxruntime")  # imported once a test run instead of once a file


def _time_briefly(files: Any, image: Any, clock: Any) -> Any:
    return time_files(files, image, replace(clock, seconds=0.02, rounds=2, largest_batch=2))


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


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> MakeStore:
    """Copies an empty MLflow store into a folder and returns its address: creating one takes seconds."""
    from mlflow import MlflowClient

    template = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{template}").search_experiments()

    def copied(folder: Path) -> str:
        shutil.copyfile(template, folder / "mlflow.db")
        return f"sqlite:///{folder / 'mlflow.db'}"

    return copied


@pytest.fixture(scope="session")
def quantized() -> Quantized:
    """A quantized network, made once: tests of targets and of metrics read it."""
    from tests.exported import quantize

    return quantize()


def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """``folder`` with something mounted on it for the length of a test, which is skipped if that is not allowed."""
    folder.mkdir(exist_ok=True)
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode
    ):
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a disk of 1 MB."""
    yield from mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=1m", "tmpfs")
