"""Shapes that a graph computes for each batch: stored where the number of images does not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from src.deploy.onnx_export import export_onnx
from src.deploy.onnxruntime import CPU, run_with, session
from tests.exported import CARD, images


class Shuffled(nn.Module):
    """Halves by ``chunk``, a channel shuffle and a flattening by the image's own sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.conv(x).chunk(2, 1)
        n, c, h, w = x.size(0), 8, x.size(2), x.size(3)
        joined = torch.cat([two, one], 1).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        pooled = nn.functional.adaptive_avg_pool2d(joined, 4)
        return self.fc(pooled.view(pooled.size(0), -1))


class Merged(nn.Module):
    """Images and rows are one dimension for a while, as attention in windows has it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        rows = self.fc(x.transpose(1, 2).reshape(n * h, c * w))
        return rows.view(n, h, 3).mean(1)


@pytest.mark.parametrize("build", [Shuffled, Merged], ids=lambda b: b.__name__)
def test_only_the_number_of_images_is_computed(build: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = build().eval(), tmp_path / "model.onnx"
    export_onnx(model, images(1), path, CARD, {})
    assert not {"Shape", "Gather"} & {node.op_type for node in onnx.load(str(path)).graph.node}
    for batch in (1, 4, 9):
        with torch.no_grad():
            expected = model(images(batch)).numpy()
        found = run_with(session(path, 1, [CPU]))(images(batch).numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
