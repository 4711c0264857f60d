"""Weights, and if wanted activations, of 1 to 16 bits on evenly spaced values, trained straight through."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from src.contracts import Claim, Compressed, Context, Lowered, QuantizingMethod, Recipe, StoredWeight
from src.primitives.allocations import Allocation
from src.primitives.folding import fold, fold_batch_norm
from src.primitives.keeping import shared_values
from src.primitives.layers import layer_name, per_layer, refuse_shared, weight_names, without
from src.primitives.quantizers import Affine, Grid, GridFit, check_bits, straight_through

SAMPLE = 65_536  # values of a layer's input, of each calibration batch, to which its grid is fitted


@dataclass(frozen=True, kw_only=True)
class QuantizeUniform(QuantizingMethod):
    """Round weights to evenly spaced values; each layer may have its own number of bits.

    An affine grid has ``2^bits`` values, a symmetric one ``2^bits - 1`` (as many below zero as above, and zero), or two
    with one bit.

    Batch normalization is folded first. If a layer's weights share values, each tensor has one scale, so that they
    still share values. A file holds weights of up to 8 bits as integers of 8 bits, and computes in floats: it is
    smaller, not faster. No step can follow.

    Attributes:
        bits: Number of bits of a weight: one number, one for each pattern of weight names, or an allocation that
            chooses.
        activation_bits: Number of bits of each layer's input; None leaves activations as they are.
        grid: Fits the grid of a weight: symmetric or affine, per channel or per tensor.
        ignored: Patterns of weight names that stay floats.
        fine_tune: How weights are trained under rounding; None rounds once.

    Paper: Nagel et al. 2021, arXiv:2106.08295, sections 2 to 4; straight-through: Bengio et al. 2013, arXiv:1308.3432.
    """

    bits: int | Mapping[str, int] | Allocation
    activation_bits: int | None
    grid: GridFit
    ignored: Sequence[str]
    fine_tune: Recipe | None

    ends_chain = "its result has integer weights, which no further step can change"

    def __post_init__(self) -> None:
        if not callable(self.bits):
            for bits in self._possible_bits:
                check_bits(bits)
        if self.activation_bits is not None:
            check_bits(self.activation_bits, "activation_bits")

    @property
    def _possible_bits(self) -> Sequence[int]:
        """The numbers of bits that a weight can get; empty if an allocation, or a plain function, does not say."""
        if callable(self.bits):
            return self.bits.possible_bits if isinstance(self.bits, Allocation) else ()
        return list(self.bits.values()) if isinstance(self.bits, Mapping) else [self.bits]

    @property
    def undoes(self) -> Mapping[str, str]:  # type: ignore[override]
        """Zeros, if a grid of one of the possible numbers of bits has none."""
        has_zero = all(self.grid.has_zero(bits) for bits in self._possible_bits)
        return {} if has_zero else {"zeros": "one symmetric bit has no zero"}

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        """Quantize ``model`` in place; raises ValueError if a budget cannot be kept or a pattern matches nothing."""
        names = without(weight_names(model), self.ignored)
        refuse_shared(model, names, "quantizing would untie them; add it to ignored")
        folded = fold_batch_norm(model.eval(), context.example_input)
        bits = self._choose_bits(model, names, context)
        if self.activation_bits is not None:
            _quantize_inputs(model, names, self.activation_bits, context)
        layers = {name: model.get_submodule(layer_name(name)) for name in names}
        for name, layer in layers.items():
            weight = model.get_parameter(name).detach()
            per_tensor = shared_values(weight) is not None
            grid = WeightGrid(self.grid(weight, bits[name], per_tensor=per_tensor))
            parametrize.register_parametrization(layer, "weight", grid)
        if self.fine_tune is not None:
            context.fine_tune(model, self.fine_tune)
        for layer in layers.values():
            trained_grid: nn.Module = layer.parametrizations.weight[0]  # type: ignore[union-attr, index, assignment]
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            layer.add_module("weight_grid", trained_grid)
        grids = {name: m.constants() for name, m in model.named_modules() if isinstance(m, (WeightGrid, InputGrid))}
        claims = {name: Claim(channel_values=2 ** bits[name]) for name in names}
        return Compressed(model, {"folded": [list(pair) for pair in folded], "grids": grids}, claims)

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Fold batch normalization and add grids as recorded; the scales are among the stored weights."""
        fold(model.eval(), structure["folded"])
        for name, constants in structure["grids"].items():
            parent, _, child = name.rpartition(".")
            layer = model.get_submodule(parent)
            if child == "weight_grid":
                layer.add_module(child, WeightGrid.empty(constants))
            else:
                _quantize_input(layer, InputGrid.empty(constants))
        return model

    def lower(self, model: nn.Module, example_input: Tensor) -> Lowered:
        """Copy ``model``, whose weights are on their grids already, and add the integers of the weights."""
        return Lowered(copy.deepcopy(model).eval(), self.stored_weights(model), integer=False)

    def stored_weights(self, model: nn.Module) -> dict[str, StoredWeight]:
        """The integers of each quantized weight, by parameter name."""
        found = {}
        for name, module in model.named_modules():
            if isinstance(module, WeightGrid):
                weight = f"{name.removesuffix('weight_grid')}weight"
                found[weight] = module.grid.stored(model.get_parameter(weight))
        return found

    def _choose_bits(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, int]:
        if callable(self.bits):
            return self.bits(model, names, self.grid, context)
        return per_layer(self.bits, names, "bits")


class _GridModule(nn.Module):
    """A grid whose scales are saved with the network."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.bits, self.low, self.high, self.step = grid.bits, grid.low, grid.high, grid.step
        self.register_buffer("scale", grid.scale.clone())
        self.register_buffer("zero_point", grid.zero_point.clone())

    @classmethod
    def empty(cls, constants: Mapping[str, Any]) -> _GridModule:
        """A grid of the recorded shape; its scales are loaded afterwards."""
        shape = constants["shape"]
        limits = {key: constants[key] for key in ("bits", "low", "high", "step")}
        return cls(Grid(scale=torch.ones(shape), zero_point=torch.zeros(shape, dtype=torch.int32), **limits))

    def constants(self) -> dict[str, Any]:
        """All but scales and zero points, as JSON can hold it."""
        limits = {"bits": self.bits, "low": self.low, "high": self.high, "step": self.step}
        return {**limits, "shape": list(self.scale.shape)}

    @property
    def grid(self) -> Grid:
        """The grid, with the present scales."""
        return Grid(self.bits, self.scale, self.zero_point, self.low, self.high, self.step)


class WeightGrid(_GridModule):
    """The grid of a layer's weight; a parametrization that rounds while the weight is trained."""

    def forward(self, weight: Tensor) -> Tensor:
        return straight_through(weight, self.grid)


class InputGrid(_GridModule):
    """The grid of a layer's input."""

    def forward(self, inputs: Tensor) -> Tensor:
        return straight_through(inputs, self.grid) if self.training else self.grid.quantize(inputs)


def _quantize_inputs(model: nn.Module, names: Sequence[str], bits: int, context: Context) -> None:
    """Round the input of each layer to an affine grid that is fitted to its inputs on calibration images."""
    layers = {name: model.get_submodule(layer_name(name)) for name in names}
    inputs_of: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: inputs_of[name].append(_sample(inputs[0])))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for images, _ in context.calibration:
                model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(inputs_of.values()):
        raise ValueError("there is no calibration image: data.calibration_images must be at least 1")
    fit = Affine(per_channel=False, candidates=40)
    for name, layer in layers.items():
        _quantize_input(layer, InputGrid(fit(torch.cat(inputs_of[name]), bits)))


def _quantize_input(layer: nn.Module, grid: nn.Module) -> None:
    layer.add_module("input_grid", grid)
    layer.register_forward_pre_hook(_round_input)


def _round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.input_grid(inputs[0]), *inputs[1:])  # type: ignore[operator]


def _sample(values: Tensor) -> Tensor:
    """About ``SAMPLE`` of the values, evenly spaced; all of them if there are fewer."""
    flat = values.detach().flatten()
    return flat[:: max(1, flat.numel() // SAMPLE)]
