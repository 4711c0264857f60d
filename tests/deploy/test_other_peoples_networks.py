"""Networks as people bring them: exported for every target, the file gives what torch gives for one image and three."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from src.contracts import Lowered, NotExportableError, Target
from src.experiment.export import try_file
from src.metrics.board import Board
from src.metrics.graph import UncountedError, macs, parameters
from tests.deploy.test_targets import made
from tests.exported import CARD, images
from tests.odd_networks import Attends, CountsItsBatch, Decides, Plain, UnevenPool

FOUR = ("onnxruntime", "openvino", "tflite", "torch")
EACH = [pytest.param(name, marks=pytest.mark.slow) if name == "tflite" else name for name in FOUR]  # 10 s a file
SIDE = 16


class Recurs(nn.Module):
    """A GRU over the columns of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3 * SIDE, 12, batch_first=True)
        self.classifier = nn.Linear(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.gru(image.permute(0, 3, 1, 2).flatten(2))[0].mean(1))
        return logits


class Enlarges(nn.Module):
    """A transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 2, stride=2)
        self.classifier = nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.up(image).amax((2, 3)))
        return logits


class Shuffles(nn.Module):
    """Halves of the channels that go two ways, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.way = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 4, 1)
        self.classifier = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        left, right = self.stem(image).chunk(2, 1)
        logits: Tensor = self.classifier(torch.cat([left, self.way(right)], 1).mean((2, 3)))
        return logits


class Sums(nn.Module):
    """A sum of products as einsum writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, SIDE, 3))

    def forward(self, image: Tensor) -> Tensor:
        return torch.einsum("ncw,cwk->nk", image.mean(2), self.weight)


def written(model: nn.Module, target: Target, folder: Path) -> Path:
    """The file of ``model``, which does what the network does."""
    torch.manual_seed(0)
    lowered = Lowered(copy.deepcopy(model).eval(), {}, False)
    path = folder / f"model.{target.ending}"
    target.export(lowered.model, images(1, SIDE), path, CARD, {})
    try_file("it", target, path, lowered, images(3, SIDE))
    return path


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("network", [CountsItsBatch, UnevenPool, Attends])
def test_a_file_does_what_its_network_does_for_one_image_and_three(name: str, network: type, tmp_path: Path) -> None:
    written(network(3), made(name), tmp_path)


def test_an_onnx_file_has_the_oldest_opset_that_its_network_needs_and_old_boards_refuse_it(tmp_path: Path) -> None:
    target, nano = made("onnxruntime"), board("onnxruntime", 13)
    (tmp_path / "plain").mkdir()
    plain, attends = written(Plain(3), target, tmp_path / "plain"), written(Attends(3), target, tmp_path)
    assert (target.opset(plain), target.opset(attends)) == (13, 14)
    assert target.remarks(plain) == []
    assert "ONNX opset 14" in target.remarks(attends)[0]
    nano.check(target, [plain])
    with pytest.raises(
        NotExportableError, match="board nano: the network needs ONNX opset 14, and its onnxruntime reads"
    ):
        nano.check(target, [attends])
    board("onnxruntime", 14).check(target, [attends])


def board(runtime: str, newest: int) -> Board:
    no_limit = dict.fromkeys(("memory_bytes", "storage_bytes", "runtimes", "arithmetic"))
    return Board(name="nano", weights_in_memory=True, **no_limit, opsets={runtime: newest})


def test_a_network_that_decides_by_its_images_is_refused_with_the_line(tmp_path: Path) -> None:
    target, model = made("onnxruntime"), Decides(3).eval()
    bright = images(3, SIDE).abs()
    path = tmp_path / "model.onnx"
    target.export(model, bright[:1], path, CARD, {})
    try_file("it", target, path, Lowered(model, {}, False), bright)
    with pytest.raises(NotExportableError, match=r"odd_networks.py:\d+ \(images = -images if .*branches on the values"):
        try_file("it", target, path, Lowered(model, {}, False), -bright)


# Multiply-accumulates counted by hand, for images of 3x16x16: gates x (inputs + states) x outputs x steps; input
# values x outputs x kernel; attention's two products over 49 pixels of 8 maps.
COUNTED = {
    Recurs: 16 * 3 * 12 * (48 + 12) + 12 * 3,
    Enlarges: 3 * 16 * 16 * 4 * 4 + 4 * 3,
    Shuffles: 14 * 14 * 8 * 27 + 14 * 14 * 4 * 4 + 8 * 3,
    Sums: 3 * 16 * 3,
    lambda: Attends(3): 49 * 8 * 27 + 2 * 49 * 49 * 8 + 8 * 3,
}
# Of a GRU OpenVINO stores the sums of two biases for two of three gates. TFLite's converter writes out all steps, the
# first without its product with states of zeros, but with a bias of its own.
LEFT_OUT = {("openvino", Recurs): (0, 2 * 12), ("tflite", Recurs): (12 * 36, -36)}


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("network", COUNTED)
def test_macs_and_parameters_are_those_counted_by_hand(name: str, network: type, tmp_path: Path) -> None:
    model, target = network(), made(name)
    graph = target.graph(written(model, target, tmp_path))
    fewer_macs, fewer_parameters = LEFT_OUT.get((name, network), (0, 0))
    assert macs(graph) == COUNTED[network] - fewer_macs
    assert parameters(graph) == sum(p.numel() for p in model.parameters()) - fewer_parameters


def test_an_operator_with_weights_that_is_not_known_is_not_counted_as_nothing(tmp_path: Path) -> None:
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prototypes = nn.Parameter(torch.randn(3, 3))

        def forward(self, image: Tensor) -> Tensor:
            return -torch.cdist(image.mean((2, 3)), self.prototypes)

    target = made("torch")
    with pytest.raises(UncountedError, match="cdist: this operator has weights"):
        macs(target.graph(written(Distances(), target, tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet18", "shufflenet_v2_x0_5", "alexnet", "squeezenet1_1", "mnasnet0_5", "vit"])
def test_known_networks_do_what_torch_does_and_are_counted_alike(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)  # torch's counter knows no fused attention
    torch.manual_seed(0)
    small = {"image_size": 64, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    builders = {"vit": lambda: torchvision.models.VisionTransformer(num_classes=3, **small)}
    model = builders.get(network, lambda: torchvision.models.get_model(network, num_classes=3))().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(images(1, 64))
    for name in FOUR:
        target, path = made(name), tmp_path / f"model.{made(name).ending}"
        target.export(copy.deepcopy(model), images(1, 64), path, CARD, {})
        try_file(name, target, path, Lowered(model, {}, False), images(3, 64))
        assert macs(target.graph(path)) == pytest.approx(counter.get_total_flops() / 2, rel=0.01), name
