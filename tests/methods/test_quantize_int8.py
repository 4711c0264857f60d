"""INT8 quantization: integers in the file, zeros kept, rebuilt to the bit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from nncf.torch.function_hook.wrapper import get_hook_storage
from torch import nn

from src.contracts import Context, DataSplits
from src.methods.quantize_int8 import QuantizeInt8
from src.models.resnet import CifarResNet
from tests.methods.examples import Net, context, prune
from tests.primitives.foreign import Lists


def test_weights_are_on_a_grid_of_255_steps_per_channel(splits: DataSplits) -> None:
    torch.manual_seed(0)
    method = QuantizeInt8(bias_correction=False, ignored=[], fine_tune=None)
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
    method = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None)
    made = method.compress(model, context(splits))
    assert not [m for m in made.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert made.structure is not None
    assert len(made.structure["folded"]) == 9


def test_zeros_stay_zeros_in_the_integers(splits: DataSplits) -> None:
    torch.manual_seed(0)
    sparse = prune(sparsity=0.8).compress(Net().eval(), context(splits)).model
    gone = sparse.get_parameter("fc.weight") == 0
    method = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None)
    quantized = method.compress(sparse, context(splits)).model
    integers = method.stored_weights(quantized)["fc.weight"].integers
    assert bool((integers[gone] == 0).all())
    assert int((integers == 0).sum()) >= int(gone.sum())


def test_a_record_rebuilds_the_structure_and_the_outputs_to_the_bit(splits: DataSplits) -> None:
    torch.manual_seed(0)
    method = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None)
    made = method.compress(Net().eval(), context(splits))
    record = json.loads(json.dumps(made.structure))
    rebuilt = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None).rebuild(Net(), record)
    rebuilt.load_state_dict(made.model.state_dict())
    images = torch.cat([batch for batch, _ in context(splits).calibration])
    with torch.no_grad():
        assert torch.equal(rebuilt(images), made.model(images))


def test_without_calibration_images_nothing_is_quantized(splits: DataSplits) -> None:
    given = context(splits)
    empty = Context([], given.loss, given.example_input, 0, given.fine_tune)
    with pytest.raises(ValueError, match="no calibration image"):
        QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None).compress(Net().eval(), empty)


def test_layers_in_a_list_stay_in_float_by_name(splits: DataSplits) -> None:
    """NNCF calls their operators by no name of theirs: layers are known by their weights."""
    torch.manual_seed(0)
    model = Lists().eval()

    def quantized_weights(ignored: list[str]) -> int:
        method = QuantizeInt8(bias_correction=False, ignored=ignored, fine_tune=None)
        made = method.compress(copy.deepcopy(model), context(splits)).model
        return sum(name.endswith("__1.0") for name, _ in get_hook_storage(made).named_hooks())

    assert [quantized_weights(ignored) for ignored in ([], ["streams.2.*"], ["streams.*"])] == [5, 4, 2]


@pytest.mark.parametrize("low", [-128, -127, 0])
@pytest.mark.parametrize("shape", [(1,), (3, 1)])
def test_the_rounding_of_a_gpu_is_nncfs_and_so_are_its_gradients(low: int, shape: tuple[int, ...]) -> None:
    from nncf.torch.quantization.reference import torch_executor

    from src.methods import _nncf

    generator = torch.Generator().manual_seed(2)
    values = torch.randn(3, 40, generator=generator).requires_grad_(True)
    scale = (torch.rand(shape, generator=generator) + 0.5).requires_grad_(True)
    gradient, high = torch.randn(3, 40, generator=generator), 127
    lowest = (scale * (low / high)).detach()
    limits = (values.detach(), lowest, scale.detach() - lowest, high - low + 1)
    found = _nncf._Rounding.apply(values, scale, low, high)
    torch.testing.assert_close(found, torch_executor.forward(*limits))
    found.backward(gradient)
    on_values, _, on_scale = torch_executor.backward(gradient, *limits, low, high)
    torch.testing.assert_close(values.grad, on_values)
    torch.testing.assert_close(scale.grad, on_scale.sum_to_size(shape), rtol=1e-4, atol=1e-4)
