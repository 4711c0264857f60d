"""The channels of a network as units that stay or go together, and removing them (``tying`` finds them)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from src.primitives.outputs import precise_outputs, same_outputs

FROZEN = -1
PRODUCERS = (nn.Linear, _ConvNd)
MIXING = (nn.GroupNorm, nn.LayerNorm)  # their output of one channel depends on other channels
SHAPED = (*PRODUCERS, *MIXING, _BatchNorm, _InstanceNorm, nn.PReLU)
ATTRIBUTES = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features"),
    *("num_features", "num_channels", "num_parameters", "normalized_shape"),
)


@dataclass(frozen=True)
class Side:
    """The channels at one side of a module, its inputs or its outputs.

    Attributes:
        module: Name of the module.
        tensors: The module's tensors that hold a slice for each channel, by name, with the dimension. At the inputs of
            a grouped convolution there are fewer slices than channels, because all groups have the same slices.
        attributes: The module's attributes that hold the number of channels.
        units: For each channel the unit that it belongs to, or ``FROZEN``.
        produces: Whether these are a layer's outputs.
    """

    module: str
    tensors: Mapping[str, int]
    attributes: tuple[str, ...]
    units: tuple[int, ...]
    produces: bool


@dataclass(frozen=True)
class Ties:
    """A network's channels, tied into units that stay or go together.

    Attributes:
        sides: All sides of modules that have a unit.
        groups: By name, the units that the same layers produce. Each unit is a decision of its own, and the units of a
            group compete. The name is that of the layers, joined by ``+``.
        not_followed: Layers whose outputs must stay because something that they flow through is not understood.
    """

    sides: tuple[Side, ...]
    groups: Mapping[str, tuple[int, ...]]
    not_followed: tuple[str, ...] = ()

    def producers(self, group: str) -> dict[str, int]:
        """The layers that produce the group's channels, each with its number of channels in a unit."""
        first = self.groups[group][0]
        return {side.module: side.units.count(first) for side in self.sides if side.produces and first in side.units}


# Removing -----------------------------------------------------------------------------------------


@torch.no_grad()
def remove_units(model: nn.Module, ties: Ties, units: Collection[int]) -> None:
    """Remove the channels of ``units`` from ``model`` in place; the others keep their values and their order.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> inner = Side("0", {"weight": 0, "bias": 0}, ("out_features",), (0, 1, 2), True)
    >>> ties = Ties((inner, Side("1", {"weight": 1}, ("in_features",), (0, 1, 2), False)), {"0": (0, 1, 2)})
    >>> remove_units(model, ties, {1})
    >>> model
    Sequential(
      (0): Linear(in_features=2, out_features=2, bias=True)
      (1): Linear(in_features=2, out_features=2, bias=True)
    )
    """
    removed = set(units)
    for side in ties.sides:
        keep = [index for index, unit in enumerate(side.units) if unit not in removed]
        if len(keep) == len(side.units):
            continue
        module = model.get_submodule(side.module)
        for name, dim in side.tensors.items():
            tensor = cast("Tensor | None", getattr(module, name))
            if tensor is not None:
                slices = [index for index in keep if index < tensor.shape[dim]]
                selected = tensor.index_select(dim, torch.tensor(slices, device=tensor.device))
                _replace_tensor(module, name, selected.contiguous())
        for attribute in side.attributes:
            setattr(module, attribute, (len(keep),) if attribute == "normalized_shape" else len(keep))


@torch.no_grad()
def mute_units(model: nn.Module, ties: Ties, units: Collection[int]) -> None:
    """Set to zero, in place, the weights by which layers read the channels of ``units``; the structure stays.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    >>> _ = nn.init.ones_(model[1].weight)
    >>> mute_units(model, Ties((Side("1", {"weight": 1}, ("in_features",), (0, 1, 2), False),), {}), {1})
    >>> model[1].weight.tolist()
    [[1.0, 0.0, 1.0]]
    """
    muted_units = set(units)
    for side in ties.sides:
        module = model.get_submodule(side.module)
        if isinstance(module, PRODUCERS) and not side.produces and side.tensors:
            weight = module.weight
            muted = [i for i, unit in enumerate(side.units) if unit in muted_units and i < weight.shape[1]]
            weight[:, muted] = 0


def removes_cleanly(model: nn.Module, ties: Ties, units: Collection[int], example_input: Tensor) -> bool:
    """Whether ``model`` without the channels of ``units`` computes the same as with these channels muted.

    Shapes are compared for one image and for two, values for two. Normalizations over several channels would differ,
    and are left out of both networks.

    Args:
        model: It is left as it was.
        ties: The network's channels.
        units: Units to remove.
        example_input: ``[1, c, h, w]``.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> inner = Side("0", {"weight": 0, "bias": 0}, ("out_features",), (0, 1, 2), True)
    >>> reading = Side("1", {"weight": 1}, ("in_features",), (0, 1, 2), False)
    >>> removes_cleanly(model, Ties((inner, reading), {"0": (0, 1, 2)}), {1}, torch.ones(1, 2))
    True
    >>> removes_cleanly(model, Ties((inner,), {"0": (0, 1, 2)}), {1}, torch.ones(1, 2))  # layer 1 still reads three
    False
    """
    two = torch.randn((2, *example_input.shape[1:]), generator=torch.Generator().manual_seed(0))
    muted, smaller = (copy.deepcopy(model).cpu().eval() for _ in range(2))
    mute_units(muted, ties, units)
    remove_units(smaller, ties, units)
    try:
        for images in (example_input.cpu(), two):
            with torch.no_grad():
                if smaller(images).shape != muted(images).shape:
                    return False
        return same_outputs(_outputs_without_mixing(smaller, two), _outputs_without_mixing(muted, two))
    except Exception:  # a user's forward may raise anything
        return False


def _outputs_without_mixing(model: nn.Module, images: Tensor) -> Tensor:
    """The outputs without normalizations over several channels, as ``precise_outputs`` computes them."""
    for name, module in list(model.named_modules()):
        if isinstance(module, MIXING):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
    return precise_outputs(model, images)


# Shapes -------------------------------------------------------------------------------------------


def shapes_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Describe the shape of each module that holds tensors, as JSON can hold it.

    Returns:
        By module name: its attributes that count channels, and ``shapes``, the shapes of its tensors by name.

    >>> shapes_of(nn.Linear(3, 2, bias=False))
    {'': {'in_features': 3, 'out_features': 2, 'shapes': {'weight': [2, 3]}}}
    """
    described = {}
    for name, module in model.named_modules():
        tensors = {**module._parameters, **module._buffers}
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items() if tensor is not None}
        attributes = [key for key in ATTRIBUTES if isinstance(module, SHAPED) and hasattr(module, key)]
        values = {key: getattr(module, key) for key in attributes}
        counts = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        if shapes or counts:
            described[name] = {**counts, "shapes": shapes}
    return described


def give_shapes(model: nn.Module, shapes: Mapping[str, Mapping[str, Any]]) -> None:
    """Give modules of ``model`` the described shapes, in place; tensors of a new shape hold zeros.

    Args:
        model: Changed in place.
        shapes: What ``shapes_of`` returned, or a part of it.

    >>> model = nn.Linear(3, 2, bias=False)
    >>> give_shapes(model, shapes_of(nn.Linear(4, 1, bias=False)))
    >>> model, model.weight.tolist()
    (Linear(in_features=4, out_features=1, bias=False), [[0.0, 0.0, 0.0, 0.0]])
    """
    for name, described in shapes.items():
        module = model.get_submodule(name)
        for key, value in described.items():
            if key != "shapes":
                setattr(module, key, tuple(value) if isinstance(value, list) else value)
        for key, shape in described["shapes"].items():
            tensor = cast(Tensor, getattr(module, key))
            if list(tensor.shape) != shape:
                _replace_tensor(module, key, tensor.detach().new_zeros(shape))


def _replace_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer; a parameter stays a parameter."""
    before = getattr(module, name)
    if isinstance(before, nn.Parameter):
        setattr(module, name, nn.Parameter(tensor, requires_grad=before.requires_grad))
    else:
        setattr(module, name, tensor)
