"""Weights, and activations where asked, of 1 to 16 bits on evenly spaced values, trained straight through."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from src.contracts import Context, Lowered, StoredWeight
from src.primitives.allocations import Allocation
from src.primitives.folding import fold, fold_batch_norm
from src.primitives.keeping import shared_values
from src.primitives.layers import per_layer, refuse_shared, weight_names, without
from src.primitives.quantizers import Affine, Grid, GridFit, check_bits, straight_through


class QuantizeUniform:
    """Round weights to evenly spaced values; each layer may have its own number of bits.

    An affine grid has ``2^bits`` values, a symmetric one ``2^bits - 1`` (as many below zero as above, and zero), or two
    with one bit.

    Batch normalization is folded first. A layer whose weights share values has one scale a tensor, so that they go on
    sharing. A file holds weights of up to 8 bits as integers of 8; arithmetic stays in floats: it is smaller, not
    faster. Ends a chain.

    Args:
        bits: Of a weight: one number, one for each pattern of weight names, or an allocation that chooses.
        activation_bits: Of each layer's input; None leaves activations as they are.
        grid: Symmetric or affine, per channel or per tensor.
        ignored: Patterns of weight names that stay floats.
        fine_tune: How weights are trained under rounding; None rounds once.

    Paper: Nagel et al. 2021, arXiv:2106.08295, sections 2 to 4; straight-through: Bengio et al. 2013, arXiv:1308.3432.
    """

    ends_chain = "its result has integer weights, which no further step can change"

    def __init__(
        self,
        *,
        bits: int | Mapping[str, int] | Allocation,
        activation_bits: int | None,
        grid: GridFit,
        ignored: Sequence[str],
        fine_tune: Any,
    ) -> None:
        fixed = list(bits.values()) if isinstance(bits, Mapping) else [] if callable(bits) else [bits]
        possible = [*fixed, *getattr(bits, "choices", [])]
        for count in fixed:
            check_bits(count)
        if activation_bits is not None:
            check_bits(activation_bits, "activation_bits")
        self.bits, self.activation_bits, self.grid = bits, activation_bits, grid
        self.ignored, self.fine_tune = list(ignored), fine_tune
        self.undoes = (
            {} if all(grid.has_zero(count) for count in possible) else {"zeros": "one symmetric bit has no zero"}
        )
        self._folded: list[tuple[str, str]] = []

    def compress(self, model: nn.Module, context: Context) -> nn.Module:
        """Quantize ``model``; raises ValueError where a budget cannot be kept or a pattern matches nothing."""
        names = without(weight_names(model), self.ignored)
        refuse_shared(model, names, "quantizing would untie them; add it to ignored")
        self._folded = fold_batch_norm(model.eval(), context.example_input)
        bits = self._choose(model, names, context)
        if self.activation_bits is not None:
            _quantize_inputs(model, names, self.activation_bits, context)
        for name in names:
            weight = model.get_parameter(name).detach()
            per_tensor = shared_values(weight) is not None
            grid = WeightGrid(self.grid(weight, bits[name], per_tensor=per_tensor))
            parametrize.register_parametrization(_layer(model, name), "weight", grid)
        if self.fine_tune is not None:
            context.fine_tune(model, self.fine_tune)
        for name in names:
            layer = _layer(model, name)
            grid = layer.parametrizations.weight[0]  # type: ignore[union-attr, index, assignment]
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            layer.add_module("weight_grid", grid)
        return model

    def _choose(self, model: nn.Module, names: Sequence[str], context: Context) -> dict[str, int]:
        if callable(self.bits):
            return self.bits(model, names, self.grid, context)
        return per_layer(self.bits, names, "bits")

    def structure(self, model: nn.Module) -> dict[str, Any]:
        """The folded pairs, and each grid's name and constants; scales are among the stored weights."""
        grids = {name: m.constants() for name, m in model.named_modules() if isinstance(m, (WeightGrid, InputGrid))}
        return {"folded": [list(pair) for pair in self._folded], "grids": grids}

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Fold, and put grids where they were recorded."""
        self._folded = [(layer, norm) for layer, norm in structure["folded"]]
        fold(model.eval(), self._folded)
        for name, constants in structure["grids"].items():
            parent, _, child = name.rpartition(".")
            layer = model.get_submodule(parent)
            if child == "weight_grid":
                layer.add_module(child, WeightGrid.empty(constants))
            else:
                _quantize_input(layer, InputGrid.empty(constants))
        return model

    def lower(self, model: nn.Module, example_input: Tensor) -> Lowered:
        """A copy; weights are on their grids already, and exporters are told of their integers."""
        return Lowered(copy.deepcopy(model).eval(), self.stored_weights(model), integer=False)

    def stored_weights(self, model: nn.Module) -> dict[str, StoredWeight]:
        """The integers of each quantized weight."""
        return {
            f"{name.removesuffix('weight_grid')}weight": module.grid.stored(
                model.get_parameter(f"{name.removesuffix('weight_grid')}weight")
            )
            for name, module in model.named_modules()
            if isinstance(module, WeightGrid)
        }


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
        """A grid of the recorded shape, to load scales into."""
        shape = constants["shape"]
        limits = {key: constants[key] for key in ("bits", "low", "high", "step")}
        return cls(Grid(scale=torch.ones(shape), zero_point=torch.zeros(shape, dtype=torch.int32), **limits))

    def constants(self) -> dict[str, Any]:
        """All but scales and zero points, as JSON can hold it."""
        limits = {"bits": self.bits, "low": self.low, "high": self.high, "step": self.step}
        return {**limits, "shape": list(self.scale.shape)}

    @property
    def grid(self) -> Grid:
        return Grid(self.bits, self.scale, self.zero_point, self.low, self.high, self.step)


class WeightGrid(_GridModule):
    """The grid of a layer's weight; while it is trained, a parametrization that rounds."""

    def forward(self, weight: Tensor) -> Tensor:
        return straight_through(weight, self.grid)


class InputGrid(_GridModule):
    """The grid of a layer's input."""

    def forward(self, inputs: Tensor) -> Tensor:
        return straight_through(inputs, self.grid) if self.training else self.grid.quantize(inputs)


def _quantize_inputs(model: nn.Module, names: Sequence[str], bits: int, context: Context) -> None:
    """Round the input of each layer to an affine grid, fitted to what calibration images show it."""
    layers = {name: _layer(model, name) for name in names}
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(_some(inputs[0])))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for images, _ in context.calibration:
                model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(seen.values()):
        raise ValueError("there is no calibration image: data.calibration_images must be at least 1")
    fit = Affine(per_channel=False, candidates=40)
    for name, layer in layers.items():
        _quantize_input(layer, InputGrid(fit(torch.cat(seen[name]), bits)))


def _quantize_input(layer: nn.Module, grid: nn.Module) -> None:
    layer.add_module("input_grid", grid)
    layer.register_forward_pre_hook(_through_grid)


def _through_grid(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.input_grid(inputs[0]), *inputs[1:])  # type: ignore[operator]


def _some(values: Tensor, count: int = 65_536) -> Tensor:
    """Evenly spaced ones of the values, at most about ``count``."""
    flat = values.detach().flatten()
    return flat[:: max(1, flat.numel() // count)]


def _layer(model: nn.Module, weight: str) -> nn.Module:
    return model.get_submodule(weight.rpartition(".")[0])
