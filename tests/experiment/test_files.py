"""What one runtime refuses does not cost the files of the others."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.contracts import Session
from src.deploy.onnxruntime import OnnxRuntime
from src.experiment.plan import Part, Plan
from tests.plans import experiment, plan


class FailsOnMany(OnnxRuntime):
    """A runtime that takes three images at once, and no more."""

    def load(self, path: Path, threads: int = 1) -> Session:
        session = super().load(path, threads)

        def run(images: np.ndarray) -> np.ndarray:
            if len(images) > 3:
                raise RuntimeError("out of its memory")
            return session(images)

        return run


class DiesInItsProcess(OnnxRuntime):
    """A runtime that works in the process that exports, and kills the one that times."""

    def __init__(self) -> None:
        super().__init__(provider="CPUExecutionProvider", stored="float32")
        self.home = os.getpid()

    def load(self, path: Path, threads: int = 1) -> Session:
        if os.getpid() != self.home:
            os._exit(7)
        return super().load(path, threads)


def beside_a_good_one(target: OnnxRuntime) -> Plan:
    made = plan("model=lenet300", "target=[onnxruntime,openvino]")
    config = made.targets["onnxruntime"].config
    return replace(made, targets={"odd": Part(target, config), "openvino": made.targets["openvino"]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (FailsOnMany(provider="CPUExecutionProvider", stored="float32"), "cannot be measured: out of its memory"),
        (DiesInItsProcess(), "cannot be timed: its process ended with exit code 7"),
    ],
)
def test_a_runtime_that_fails_leaves_the_rows_of_the_others(target: OnnxRuntime, reason: str, tmp_path: Path) -> None:
    tried = experiment(beside_a_good_one(target), tmp_path)
    (row,) = tried.run()
    assert row.target == "openvino"
    assert row.latency_ms_p50 is not None
    (refused,) = tried.refused
    assert (refused.variant, refused.target, refused.failed) == ("baseline", "odd", True)
    assert re.search(reason, refused.reason)
