"""Networks for ``torch.export``: quantizers as operators that it takes, weights stored in 8 or 16 bits."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping

import torch
import torch.ao.quantization.fx._decomposed  # defines the operators torch.ops.quantized_decomposed
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize
from torch.nn.utils import parametrize

from src.contracts import StoredWeight

OPERATORS = torch.ops.quantized_decomposed
FEW = 512  # so few values save less as float16 than their conversion takes in the file
OFFSET = 128  # difference of zero points between the unsigned and the signed form of one grid


class QuantizeDequantize(nn.Module):
    """``(clamp(round(x / scale) + zero_point) - zero_point) * scale`` in two operators, with int8 between them.

    An unsigned grid (0 to 255, zero point z) becomes the signed one with the same values (-128 to 127, zero point
    z - 128).

    Args:
        fake: The quantizer whose grid is taken over.

    Attributes:
        weight_name: Name of the parameter that it quantizes; empty for an activation.
    """

    scale: Tensor
    zero_point: Tensor
    weight_name = ""

    def __init__(self, fake: FakeQuantize) -> None:
        super().__init__()
        offset = OFFSET if fake.quant_max > 127 else 0
        self.low, self.high, self.axis = fake.quant_min - offset, fake.quant_max - offset, fake.ch_axis
        self.per_channel = fake.scale.numel() > 1
        scale, zero_point = fake.scale.detach().float().flatten(), fake.zero_point.detach().long().flatten() - offset
        if self.per_channel:
            self.register_buffer("scale", scale.clone())
            self.register_buffer("zero_point", zero_point.clone())
        else:
            self.step, self.zero = float(scale), int(zero_point)

    def forward(self, values: Tensor) -> Tensor:
        limits = (self.low, self.high, torch.int8)
        if self.per_channel:
            grid = (self.scale, self.zero_point, self.axis, *limits)
            return OPERATORS.dequantize_per_channel(OPERATORS.quantize_per_channel(values, *grid), *grid)
        return OPERATORS.dequantize_per_tensor(
            OPERATORS.quantize_per_tensor(values, self.step, self.zero, *limits), self.step, self.zero, *limits
        )

    def stored(self, weight: Tensor) -> StoredWeight | None:
        """``weight`` as a file holds it; None if scales lie along another axis than the first."""
        if self.per_channel and self.axis != 0:
            return None
        if self.per_channel:
            scale, zero_point = self.scale, self.zero_point
        else:
            scale, zero_point = torch.tensor(self.step), torch.tensor(self.zero)
        along = [-1] + [1] * (weight.dim() - 1) if scale.dim() else []
        steps = torch.round(weight.detach() * (1 / scale).view(along)) + zero_point.view(along)
        integers = steps.clamp(self.low, self.high).to(torch.int32)
        return StoredWeight(integers, 8, scale.clone(), zero_point.to(torch.int32))


class Dequantize(nn.Module):
    """Dequantizes stored int8 weights in the graph."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, integers: Tensor) -> Tensor:
        limits = (-128, 127, torch.int8)
        if self.scale.dim():
            return OPERATORS.dequantize_per_channel(integers, self.scale, self.zero_point, 0, *limits)
        return OPERATORS.dequantize_per_tensor.tensor(integers, self.scale, self.zero_point, *limits)


@torch.no_grad()
def with_operators(model: nn.Module, example_input: Tensor) -> tuple[nn.Module, dict[str, StoredWeight]]:
    """Replace torch's ``FakeQuantize`` modules by quantize and dequantize operators, in a copy.

    Args:
        model: Network in eval mode.
        example_input: One image, ``[1, c, h, w]``.

    Returns:
        The copy, and its quantized weights as a file holds them, by parameter name.
    """
    model = copy.deepcopy(model).eval()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, StoredWeight] = {}

    def quantized(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        name = names.get(id(inputs[0]))
        stored = module.stored(inputs[0]) if name is not None else None  # type: ignore[operator]
        if name is not None and stored is not None:
            found[name] = stored
            module.weight_name = name  # type: ignore[assignment]

    hooks = []
    for name, module in list(model.named_modules()):
        if isinstance(module, FakeQuantize):
            replaced = QuantizeDequantize(module)
            model.set_submodule(name, replaced)
            hooks.append(replaced.register_forward_pre_hook(quantized))
    if hooks:
        model(example_input)
    for hook in hooks:
        hook.remove()
    return model, found


@torch.no_grad()
def with_stored_integers(model: nn.Module, weights: Mapping[str, StoredWeight]) -> nn.Module:
    """Store the weights named in ``weights`` as int8 with a dequantization after them, in place.

    Weights of more than 8 bits, and weights that several layers share, stay as they are.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    done = set()
    for name, stored in weights.items():
        layer_name, _, attribute = name.rpartition(".")
        layer = model.get_submodule(layer_name)
        if stored.bits > 8 or owners[id(getattr(layer, attribute))] > 1:
            continue
        integers, scale, zero_point = as_int8(stored)
        setattr(layer, attribute, nn.Parameter(integers, requires_grad=False))
        parametrize.register_parametrization(layer, attribute, Dequantize(scale, zero_point), unsafe=True)
        done.add(name)
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizeDequantize) and module.weight_name in done:
            model.set_submodule(name, nn.Identity())
    return model


class Widen(nn.Module):
    """Turns stored float16 weights into float32 in the graph."""

    def forward(self, halves: Tensor) -> Tensor:
        return halves.float()


@torch.no_grad()
def with_stored_halves(model: nn.Module) -> nn.Module:
    """Store float32 weights as float16, in place, except few values, values beyond float16 and shared weights."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for name, parameter in list(model.named_parameters()):
        layer_name, _, attribute = name.rpartition(".")
        fits = parameter.dtype == torch.float32 and parameter.abs().max() <= torch.finfo(torch.float16).max
        if parameter.numel() < FEW or not fits or owners[id(parameter)] > 1:
            continue
        layer = model.get_submodule(layer_name)
        setattr(layer, attribute, nn.Parameter(parameter.half(), requires_grad=False))
        parametrize.register_parametrization(layer, attribute, Widen(), unsafe=True)
    return model


def as_int8(stored: StoredWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Integers as int8 (of the weight's shape), scales as float32 and zero points as int64 (``[]`` or ``[out]``)."""
    offset = OFFSET if int(stored.integers.max()) > 127 or int(stored.zero_point.max()) > 127 else 0
    integers = (stored.integers - offset).to(torch.int8)
    shape = [] if stored.scale.numel() == 1 else [-1]
    return integers, stored.scale.detach().float().reshape(shape), (stored.zero_point.long() - offset).reshape(shape)
