"""From a model to a file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from torch import nn

from src.contracts import DataSplits, Target
from src.deploy.onnxruntime import OnnxRuntime
from src.deploy.openvino import OpenVino
from src.deploy.tflite import TfLite
from src.deploy.torch_program import TorchProgram
from src.experiment.export import lowered, written


@pytest.mark.parametrize(
    "target",
    [
        OnnxRuntime(provider="CPUExecutionProvider", stored="float32"),
        OpenVino(stored="float32", inference="float32"),
        TfLite(stored="float32", dynamic_batch=False),
        TorchProgram(stored="float32"),
    ],
    ids=lambda target: type(target).__name__,
)
def test_a_full_disk_is_no_fault_of_the_network_and_leaves_no_half_file(
    full_disk: Path, splits: DataSplits, target: Target
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1000), nn.ReLU(), nn.Linear(1000, 4)).eval()
    result = lowered(model, None, splits)
    with pytest.raises(OSError, match="the disk is full") as caught:
        written("x", target, result, splits, full_disk / f"model.{target.ending}", "0")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.startswith(str(full_disk))
    assert list(full_disk.iterdir()) == []
