"""n bits: at most 2^n values, integers in the file, rounded activations, a budget kept exactly."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from src.contracts import Context, DataSplits, InputError
from src.methods.quantize_uniform import QuantizeUniform, WeightGrid
from src.primitives.allocations import HessianTrace, UnderBudget
from src.primitives.quantizers import Affine, GridFit, Symmetric
from tests.methods.examples import Net, context
from tests.plans import experiment, plan


def quantize(**changed: Any) -> QuantizeUniform:
    settings: dict[str, Any] = {
        "bits": 4,
        "activation_bits": None,
        "grid": Symmetric(per_channel=True, candidates=20),
        "ignored": [],
        "fine_tune": None,
    }
    return QuantizeUniform(**{**settings, **changed})


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 16])
def test_each_channel_has_at_most_two_to_the_n_values(splits: DataSplits, bits: int) -> None:
    method = quantize(bits=bits)
    quantized = method.compress(Net().eval(), context(splits)).model
    for weight in (quantized.get_parameter("conv.weight"), quantized.get_parameter("fc.weight")):
        assert max(row.unique().numel() for row in weight) <= 2**bits
    stored = method.stored_weights(quantized)
    for name, held in stored.items():
        assert torch.equal(held.values(), quantized.get_parameter(name))
        assert held.bits == bits


def test_layers_have_bits_of_their_own(splits: DataSplits) -> None:
    method = quantize(bits={"conv*": 8, "*": 2})
    stored = method.stored_weights(method.compress(Net().eval(), context(splits)).model)
    assert {name: held.bits for name, held in stored.items()} == {"conv.weight": 8, "fc.weight": 2}


def test_the_recorded_structure_gives_the_same_outputs_to_the_bit(splits: DataSplits) -> None:
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method = quantize(activation_bits=5, grid=Affine(per_channel=True, candidates=5))
    plain = Net().eval()
    made = method.compress(copy.deepcopy(plain), context(splits))
    assert made.structure is not None
    quantized = made.model.eval()
    again = quantize(activation_bits=5).rebuild(Net(), made.structure)
    again.load_state_dict(quantized.state_dict())
    assert torch.equal(again.eval()(images), quantized(images))
    seen: list[torch.Tensor] = []
    quantized.fc.input_grid.register_forward_hook(lambda _, inputs, output: seen.append(output))  # type: ignore[union-attr, operator]
    quantized(images)
    assert seen[0].unique().numel() <= 2**5


def test_zeros_stay_and_shared_values_stay_shared(splits: DataSplits) -> None:
    model = Net().eval()
    model.bn = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        model.fc.weight.copy_(model.fc.weight.sign() * 0.01).view(-1)[::3] = 0
    quantized = quantize().compress(copy.deepcopy(model), context(splits)).model
    fc = quantized.get_parameter("fc.weight")
    assert bool((fc.view(-1)[::3] == 0).all())
    assert fc.unique().numel() == 3


def test_one_symmetric_bit_says_that_it_undoes_zeros() -> None:
    assert "zeros" in quantize(bits=1).undoes
    assert not quantize(bits=2).undoes
    assert not quantize(bits=1, grid=Affine(per_channel=True, candidates=1)).undoes


def test_an_allocation_says_which_bits_a_weight_can_get_and_a_plain_function_need_not(splits: DataSplits) -> None:
    def all_the_same(model: nn.Module, names: Sequence[str], grid: GridFit, context: Context) -> dict[str, int]:
        return dict.fromkeys(names, 3)

    limits: dict[str, Any] = {"size_bytes": None, "compression_ratio": 8, "cost": HessianTrace(draws=1)}
    assert "zeros" in quantize(bits=UnderBudget(choices=[1, 4], **limits)).undoes
    assert not quantize(bits=UnderBudget(choices=[2, 4], **limits)).undoes
    assert not quantize(bits=all_the_same).undoes
    quantized = quantize(bits=all_the_same).compress(Net().eval(), context(splits)).model
    assert {grid.bits for grid in quantized.modules() if isinstance(grid, WeightGrid)} == {3}


def test_the_file_holds_integers_and_is_smaller(tmp_path: Path) -> None:
    sizes = {}
    for bits in (8, 16):
        made = experiment(plan("method=quantize_uniform", f"method.bits={bits}", "model=lenet300"), tmp_path)
        base, row = made.run()
        sizes[bits] = row.size_bytes
        assert row.bits_per_weight == bits
    graph = onnx.load(str(tmp_path / "run" / "quantize_uniform.onnxruntime.onnx")).graph
    assert sizes[8] < 0.3 * base.size_bytes
    assert all(tensor.data_type != onnx.TensorProto.INT8 for tensor in graph.initializer)  # 16 bits stay floats
    assert sizes[16] == pytest.approx(base.size_bytes, rel=0.05)


def test_a_parameter_of_two_layers_is_refused(splits: DataSplits) -> None:
    model = Net().eval()
    model.twin = nn.Linear(8 * 16 * 16, 10)  # type: ignore[assignment]
    model.twin.weight = model.fc.weight
    with pytest.raises(ValueError, match=r"fc.weight and twin.weight are one parameter"):
        quantize().compress(model, context(splits))


def test_a_hopeless_budget_costs_no_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be kept: the least is"):
        experiment(plan("method=quantize_mixed", "method.bits.compression_ratio=40"), tmp_path).run()
    assert not list((tmp_path / "artifacts").glob("*/stage.json"))


@pytest.mark.parametrize("bits", [0, 17])
def test_bits_that_do_not_exist_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits must be a whole number from 1 to 16"):
        quantize(bits=bits)
    with pytest.raises(ValueError, match="bits must be"):
        quantize(activation_bits=bits)
