"""Small exported files that are kept: exporting gives their bytes again, and they can still be used.

After an intended change of what is exported, ``python -m tests.deploy.test_golden`` writes the files again; the
CHANGELOG then says what changed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from torch.nn.functional import conv2d, linear

from src.contracts import ModelCard
from src.deploy.onnxruntime import OnnxRuntime
from src.metrics.graph import macs, parameters

FOLDER = Path(__file__).parent / "golden"
FLOAT, INT8 = FOLDER / "float.onnx", FOLDER / "int8.onnx"
TARGET = OnnxRuntime(provider="CPUExecutionProvider", stored="float32")
CARD = ModelCard(("one", "two", "three"), (1, 4, 4), (0.5,), (0.25,), "golden")
LOGITS = {
    FLOAT: [[-2.4460268, 0.0730647, 1.5142620], [-2.7720537, 1.2502784, 5.7640047]],
    INT8: [[-2.4127059, 0.0901963, 1.4841831], [-2.7207847, 1.1772552, 5.7205234]],
}
OPERATORS = {
    FLOAT: {"Conv": 1, "Relu": 1, "Flatten": 1, "Gemm": 1},
    INT8: {"QuantizeLinear": 3, "DequantizeLinear": 4, "Conv": 1, "Flatten": 1}
    | {"MatMulInteger": 1, "Cast": 1, "Mul": 1, "Add": 1},
}


def ramp(*shape: int) -> Tensor:
    """Numbers that rise evenly from -1 to 1, in an order that is not that of memory."""
    count = int(np.prod(shape))
    return torch.linspace(-1, 1, count)[torch.arange(count) * 7 % count].reshape(shape)


def images() -> Tensor:
    return torch.stack([ramp(1, 4, 4), ramp(1, 4, 4).flip(2)])


class Net(nn.Module):
    """A convolution to 2x4x4, a ReLU and a dense layer to three logits, all weights by formula."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(32, 3)
        for parameter in self.parameters():
            parameter.data = ramp(*parameter.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).flatten(1))


def quantizer(scale: float | list[float], low: int, high: int) -> FakeQuantize:
    """A quantizer with a fixed scale, or one for each output, whose zero points are 0."""
    dtype = torch.quint8 if low == 0 else torch.qint8
    observer = MovingAveragePerChannelMinMaxObserver if isinstance(scale, list) else MovingAverageMinMaxObserver
    made = FakeQuantize(observer, quant_min=low, quant_max=high, dtype=dtype)
    made.scale = torch.tensor(scale)
    made.zero_point = torch.zeros(made.scale.shape, dtype=torch.int32)
    made.disable_observer()
    return made


class QuantizedNet(Net):
    """``Net`` in INT8; its weights are small integers, so that no processor saturates a sum of products."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.hidden = quantizer(1 / 127, -128, 127), quantizer(4 / 255, 0, 255)
        self.conv_weight = quantizer([1 / 50, 1 / 40], -128, 127)
        self.fc_weight = quantizer([1 / 50, 1 / 40, 1 / 30], -128, 127)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(conv2d(self.image(x), self.conv_weight(self.conv.weight), self.conv.bias, padding=1))
        return linear(self.hidden(hidden).flatten(1), self.fc_weight(self.fc.weight), self.fc.bias)


NETS: dict[Path, type[Net]] = {FLOAT: Net, INT8: QuantizedNet}
each_file = pytest.mark.parametrize("file", NETS, ids=lambda file: file.stem)


def write(file: Path, to: Path) -> None:
    """Export the network of ``file`` to ``to``."""
    TARGET.export(NETS[file]().eval(), images()[:1], to, CARD, {})


@each_file
def test_exporting_again_gives_the_very_same_bytes(file: Path, tmp_path: Path) -> None:
    write(file, tmp_path / "again.onnx")
    again = onnx.load(str(tmp_path / "again.onnx"))
    kept = onnx.load(str(file))
    kept.producer_version = again.producer_version  # torch's, which may have got fixes since
    assert kept.SerializeToString() == (tmp_path / "again.onnx").read_bytes()


@each_file
def test_a_kept_file_still_says_what_it_is(file: Path) -> None:
    assert TARGET.read_card(file) == CARD


@each_file
def test_a_kept_file_gives_the_recorded_logits(file: Path) -> None:
    np.testing.assert_allclose(TARGET.load(file)(images().numpy()), LOGITS[file], rtol=1e-5, atol=1e-6)


@each_file
def test_recorded_logits_are_those_of_torch(file: Path) -> None:
    with torch.no_grad():
        found = NETS[file]().eval()(images()).numpy()
    np.testing.assert_allclose(found, LOGITS[file], rtol=1e-5, atol=1e-6)


@each_file
def test_a_kept_file_is_counted_as_before(file: Path) -> None:
    graph = TARGET.graph(file)
    assert parameters(graph) == (18 + 2) + (96 + 3)
    assert macs(graph) == 9 * 32 + 96
    assert Counter(node.op_type for node in onnx.load(str(file)).graph.node) == OPERATORS[file]
    assert file.stat().st_size < 5000


if __name__ == "__main__":
    for path in NETS:
        write(path, path)
