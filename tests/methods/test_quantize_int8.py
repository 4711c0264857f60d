"""INT8 quantization: integers in the file, zeros kept, rebuilt to the bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nncf.torch.quantization.layers import BaseQuantizer
from torch import nn
from torch.nn import functional

from src.contracts import Context, DataSplits
from src.contracts.output_quantizers import without_output_quantizers
from src.methods.quantize_int8 import QuantizeInt8
from src.metrics.graph import float_operations, integer_share
from src.metrics.saturation import saturating_layers
from src.models.resnet import CifarResNet
from tests.deploy.test_targets import made
from tests.exported import CARD
from tests.methods.examples import Net, context, prune, recipe, short_training
from tests.primitives.foreign import Lists, Shuffle, Timmish, Transformer
from tests.primitives.networks import IMAGE, Joined, Normalized, settled


def test_weights_are_on_a_grid_of_255_steps_per_channel(splits: DataSplits) -> None:
    torch.manual_seed(0)
    method = QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None, reduce_range=False)
    quantized = method.compress(Net().eval(), context(splits)).model
    lowered = method.lower(quantized, context(splits).example_input).model
    stored = method.stored_weights(quantized)
    assert {name: weight.bits for name, weight in stored.items()} == {"conv.weight": 8, "fc.weight": 8}
    # Each channel uses its whole range; NNCF leaves the first layer half of it, against overflow on old processors.
    assert set(stored["conv.weight"].integers.abs().flatten(1).amax(1).tolist()) <= {63, 64, 127}
    assert set(stored["fc.weight"].integers.abs().flatten(1).amax(1).tolist()) <= {63, 64, 127}
    images = torch.cat([batch for batch, _ in context(splits).calibration])
    with torch.no_grad():
        assert torch.allclose(lowered(images), quantized(images), atol=1e-5)


def test_batch_norm_is_folded_before_quantizing(splits: DataSplits) -> None:
    model = CifarResNet(depth=8, num_classes=10, in_channels=3).eval()
    method = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None, reduce_range=False)
    made = method.compress(model, context(splits))
    assert not [m for m in made.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert made.structure is not None
    assert len(made.structure["folded"]) == 9


def test_zeros_stay_zeros_in_the_integers(splits: DataSplits) -> None:
    torch.manual_seed(0)
    sparse = prune(sparsity=0.8).compress(Net().eval(), context(splits)).model
    gone = sparse.get_parameter("fc.weight") == 0
    method = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None, reduce_range=False)
    quantized = method.compress(sparse, context(splits)).model
    integers = method.stored_weights(quantized)["fc.weight"].integers
    assert bool((integers[gone] == 0).all())
    assert int((integers == 0).sum()) >= int(gone.sum())


def test_a_record_rebuilds_the_structure_and_the_outputs_to_the_bit(splits: DataSplits) -> None:
    torch.manual_seed(0)
    method = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None, reduce_range=False)
    made = method.compress(Net().eval(), context(splits))
    record = json.loads(json.dumps(made.structure))
    rebuilt = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None, reduce_range=False).rebuild(Net(), record)
    rebuilt.load_state_dict(made.model.state_dict())
    images = torch.cat([batch for batch, _ in context(splits).calibration])
    with torch.no_grad():
        assert torch.equal(rebuilt(images), made.model(images))


def test_without_calibration_images_nothing_is_quantized(splits: DataSplits) -> None:
    given = context(splits)
    empty = Context([], given.loss, given.example_input, 0, given.fine_tune)
    with pytest.raises(ValueError, match="no calibration image"):
        QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None, reduce_range=False).compress(Net().eval(), empty)


def test_layers_in_a_list_stay_in_float_by_name(splits: DataSplits) -> None:
    """NNCF calls their operators by no name of theirs: layers are known by their weights."""
    torch.manual_seed(0)
    model = Lists().eval()

    def quantized_weights(ignored: list[str]) -> int:
        method = QuantizeInt8(bias_correction=False, ignored=ignored, fine_tune=None, reduce_range=False)
        made = method.compress(copy.deepcopy(model), context(splits)).model
        return len(method.stored_weights(made))

    assert [quantized_weights(ignored) for ignored in ([], ["streams.2.*"], ["streams.*"])] == [5, 4, 2]


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-127, 127), (0, 255)])
@pytest.mark.parametrize("shape", [(1,), (3, 1)])
def test_rounding_and_its_gradients_are_nncfs(low: int, high: int, shape: tuple[int, ...]) -> None:
    from nncf.torch.quantization.reference import torch_executor

    from src.primitives.rounding import Rounding

    generator = torch.Generator().manual_seed(2)
    values = torch.randn(3, 40, generator=generator).requires_grad_(True)
    scale = (torch.rand(shape, generator=generator) + 0.5).requires_grad_(True)
    lowest = (scale.detach() * (low / high) - (0.0 if low else scale.detach() / 5 * 2)).requires_grad_(not low)
    step = scale.detach() * ((high - low) / high) / (high - low)
    lowest.data = (lowest.data / step).round() * step
    gradient = torch.randn(3, 40, generator=generator)
    limits = (values.detach(), lowest.detach(), step * (high - low), high - low + 1)
    found = Rounding.apply(values, lowest, scale, low, high)
    torch.testing.assert_close(found, torch_executor.forward(*limits))
    found.backward(gradient)
    on_values, on_lowest, on_scale = torch_executor.backward(gradient, *limits, low, high)
    torch.testing.assert_close(values.grad, on_values)
    torch.testing.assert_close(scale.grad, on_scale.sum_to_size(shape), rtol=1e-4, atol=1e-4)
    if not low:
        torch.testing.assert_close(lowest.grad, on_lowest.sum_to_size(shape), rtol=1e-4, atol=1e-4)


def test_nothing_is_compiled(splits: DataSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    """NNCF would compile C++ at the first call of one of its quantizers; bias correction calls them."""
    compiled = []
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-compiler")

    def refuse(*_: object, **__: object) -> None:
        compiled.append(True)  # NNCF goes on without what torch.compile refuses
        raise AssertionError("this would compile")

    monkeypatch.setattr("torch.compile", refuse)
    monkeypatch.setattr("torch.utils.cpp_extension.load", refuse)
    monkeypatch.setattr("torch.utils.cpp_extension._jit_compile", refuse)
    method = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=recipe(), reduce_range=False)
    made = method.compress(Net().eval(), context(splits, short_training(splits)))
    assert set(method.stored_weights(made.model)) == {"conv.weight", "fc.weight"}
    assert not compiled


@pytest.mark.parametrize("build", [Shuffle, Lists, Normalized, Joined, Transformer, Timmish], ids=lambda b: b.__name__)
def test_every_quantizer_is_lowered_on_other_peoples_networks(build: type[nn.Module], splits: DataSplits) -> None:
    """Shared by a concatenation, on group normalization, in lists, in squeeze-and-excitation, in attention."""
    torch.manual_seed(0)
    method, given = QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None, reduce_range=False), context(splits)
    model = settled(build())
    weights = {name: weight.numel() for name, weight in model.named_parameters() if weight.dim() > 1}
    made = method.compress(model, given)
    lowered = method.lower(made.model, given.example_input)
    assert not [m for m in lowered.model.modules() if isinstance(m, BaseQuantizer)]
    images = torch.cat([batch for batch, _ in given.calibration])
    with torch.no_grad():
        assert torch.allclose(lowered.model(images), made.model(images), atol=1e-4)
    stored = method.stored_weights(made.model)
    left = [name for name in made.left_alone if name in weights]
    assert sum(weights[name] for name in [*stored, *left]) >= 0.99 * sum(weights.values())
    assert {*stored, *made.left_alone} >= {name for name in weights if name.endswith("weight")}


class Gated(nn.Module):
    """Hard swish and squeeze-and-excitation, as in MobileNetV3: what OpenVINO fuses and others do not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = functional.hardswish(self.deep(functional.hardswish(self.stem(images))))
        gate = self.excite(torch.relu(self.squeeze(hidden.mean((2, 3), keepdim=True))))
        return self.fc((hidden * functional.hardsigmoid(gate)).mean((2, 3)))


class Channelled(nn.Module):
    """Normalizes channels last between convolutions, gates by a pooled vector: ConvNeXt's and GhostNet's ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 1)
        self.norm, self.down = nn.LayerNorm(16), nn.Conv2d(32, 16, 1)
        self.gate, self.fc = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.stem(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        hidden = self.down(functional.gelu(self.up(hidden)))
        hidden = hidden * self.gate(hidden.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.fc(hidden.mean((2, 3)))


@pytest.mark.parametrize("build", [Gated, Shuffle, Channelled, Transformer], ids=lambda b: b.__name__)
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", pytest.param("tflite", marks=pytest.mark.slow)])
def test_a_file_computes_in_integers_what_torch_computes(
    build: type[nn.Module], target: str, splits: DataSplits, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    method = QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None, reduce_range=True)
    given, writer = context(splits), made(target)
    quantized = method.compress(settled(build()), given).model
    lowered = method.lower(quantized, given.example_input)
    assert saturating_layers(lowered.integers) == []
    path = tmp_path / f"model.{writer.ending}"
    writer.export(lowered.model, given.example_input, path, CARD, {})
    images = torch.cat([batch for batch, _ in given.calibration])
    with torch.no_grad(), without_output_quantizers(lowered.model, writer.unquantized_outputs):
        expected = lowered.model(images).numpy()
    error = writer.load(path)(images.numpy()) - expected
    assert (error**2).sum() <= 1e-3 * (expected**2).sum()  # 30 dB
    graph = writer.graph(path)
    assert integer_share(graph) >= 0.99, float_operations(graph)


def test_onnxruntime_is_exact_with_weights_that_could_saturate(splits: DataSplits, tmp_path: Path) -> None:
    """Its fastest kernels are not, on x86 without VNNI: and here all products of the dense layer are large."""
    model = Net().eval()
    model.bn = nn.Identity()
    model.fc.weight.data = 1 + model.fc.weight.data.abs()
    method, given = QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None, reduce_range=False), context(splits)
    lowered = method.lower(method.compress(model, given).model, given.example_input)
    assert saturating_layers(lowered.integers) == ["fc.weight"]
    writer, path, white = made("onnxruntime"), tmp_path / "model.onnx", torch.full_like(IMAGE, 3.0)
    writer.export(lowered.model, given.example_input, path, CARD, {})
    with torch.no_grad(), without_output_quantizers(lowered.model, writer.unquantized_outputs):
        expected = lowered.model(white).numpy()
    assert np.allclose(writer.load(path)(white.numpy()), expected, rtol=0.02, atol=0.02 * np.ptp(expected))


def test_scales_of_outputs_are_found_again_in_the_record(splits: DataSplits) -> None:
    method = QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None, reduce_range=False)
    made_here = method.compress(settled(Gated()), context(splits))
    assert made_here.structure is not None
    record = json.loads(json.dumps(made_here.structure))
    assert sorted(record["outputs"].values()) == ["convolution"] * 3 + ["product"]
    rebuilt = method.rebuild(Gated(), record)
    rebuilt.load_state_dict(made_here.model.state_dict())
    kinds = [m.output_of for m in method.lower(rebuilt, IMAGE).model.modules() if getattr(m, "output_of", None)]
    assert sorted(kinds) == sorted(record["outputs"].values())


def test_a_bias_beyond_32_bits_is_not_cut_off(splits: DataSplits, tmp_path: Path) -> None:
    model = Net().eval()
    model.bn = nn.Identity()
    model.conv.bias = nn.Parameter(torch.ones(8))
    model.conv.weight.data[0] *= 1e-12
    method, given, writer = (
        QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None, reduce_range=False),
        context(splits),
        made("onnxruntime"),
    )
    lowered = method.lower(method.compress(model, given).model, given.example_input).model
    path = tmp_path / "model.onnx"
    writer.export(lowered, given.example_input, path, CARD, {})
    with torch.no_grad():
        expected = lowered(given.example_input)
    found = torch.from_numpy(writer.load(path)(given.example_input.numpy()))
    assert float((found - expected).abs().max()) < 0.1 * float(expected.std())


def test_a_tensor_of_integers_passes_its_quantizer(splits: DataSplits) -> None:
    """Positions that a network counts, as EdgeNeXt's, are no activations; torch quantizes no integers."""
    method, given = QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None, reduce_range=False), context(splits)
    made_here = method.compress(Net().eval(), given).model
    lowered = method.lower(made_here, given.example_input).model
    quantizers = [m for net in (made_here, lowered) for m in net.modules() if hasattr(m, "skipped")]
    positions = torch.arange(1000)
    assert quantizers
    assert all(torch.equal(quantizer(positions), positions) for quantizer in quantizers)
