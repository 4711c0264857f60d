"""Which channels of a network are one decision, and taking them out."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from src.contracts import first_line

FROZEN = -1
PRODUCERS = (nn.Linear, _ConvNd)
MIXING = (nn.GroupNorm, nn.LayerNorm)  # what they make of a channel depends on the others
SHAPED = (*PRODUCERS, *MIXING, _BatchNorm, _InstanceNorm, nn.PReLU)
ATTRIBUTES = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features"),
    *("num_features", "num_channels", "num_parameters", "normalized_shape"),
)


@dataclass(frozen=True)
class Side:
    """The channels at one side of a module.

    Attributes:
        module: Its name.
        tensors: Its tensors that hold a slice for each channel, with the dimension. A grouped convolution's inputs
            are fewer there: each group has the same slices.
        attributes: Its attributes that hold the number of channels.
        units: For each channel the unit it belongs to, or ``FROZEN``.
        produces: Whether these are a layer's outputs.
    """

    module: str
    tensors: Mapping[str, int]
    attributes: tuple[str, ...]
    units: tuple[int, ...]
    produces: bool


@dataclass(frozen=True)
class Ties:
    """A network's channels, tied into units that stay or go as one.

    Attributes:
        sides: All sides of modules that have a unit.
        groups: By name, the units that the same layers produce; each is a decision on its own, and they compete. The
            name is that of the layers, joined by ``+``.
    """

    sides: tuple[Side, ...]
    groups: Mapping[str, tuple[int, ...]]

    def producers(self, group: str) -> dict[str, int]:
        """The layers that produce the group's channels, with how many of them a unit holds."""
        first = self.groups[group][0]
        return {side.module: side.units.count(first) for side in self.sides if side.produces and first in side.units}


# Tying --------------------------------------------------------------------------------------------


def tie_channels(model: nn.Module, example_input: Tensor, ignored: Collection[str] = ()) -> Ties:
    """Find which channels can only go together, by torch-pruning's dependency graph.

    Frozen are the network's outputs and its input, the outputs of the layers called ``ignored``, and whatever is tied
    to these or to a module whose channels are not known here (transposed convolutions, attention, recurrent layers).

    Args:
        model: It is left as it was.
        example_input: ``[1, c, h, w]``.
        ignored: Names of layers.

    Raises:
        ValueError: The graph cannot be made.

    Paper: Fang et al. 2023 (DepGraph), arXiv:2301.12900, section 3.
    """
    tracing = _Tracing(model, example_input)
    sides = tracing.sides(ignored)
    counts: dict[int, dict[str, int]] = {}
    for side in sides:
        for unit, count in Counter(side.units).items():
            if side.produces and unit != FROZEN:
                counts.setdefault(unit, {})[side.module] = count
    groups: dict[str, list[int]] = {}
    for unit in sorted(counts):
        name = "+".join(layer if count == 1 else f"{layer}*{count}" for layer, count in counts[unit].items())
        groups.setdefault(name, []).append(unit)
    return Ties(tuple(sides), {name: tuple(units) for name, units in groups.items()})


class _Entry(nn.Module):
    """Stands before the network, so that the image's channels have a producer like all others."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, channels, 1)
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(self.entry(images))


class _Tracing:
    """One dependency graph, and the channels that it ties: a port is a node and what is cut there, in or out."""

    def __init__(self, model: nn.Module, example_input: Tensor) -> None:
        net = copy.deepcopy(model).to("cpu").to(memory_format=torch.contiguous_format).requires_grad_(True)
        self.traced = _Entry(net, example_input.shape[1])
        self.names = {module: name for name, module in net.named_modules()}
        with torch.enable_grad():
            images = example_input.detach().to("cpu")
            try:
                self.graph = torch_pruning.DependencyGraph().build_dependency(
                    self.traced, images, forward_fn=lambda network, batch: network(batch), verbose=False
                )
            except Exception as error:  # it raises types of its own where it loses track
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise ValueError(f"torch-pruning cannot follow the network's channels ({reason})") from error
            outputs = self.traced(images).shape[1]
        self.parents: dict[Any, Any] = {}
        self.indices: dict[Any, set[int]] = {}
        nodes = self.graph.module2node
        for layer in [m for m in self.traced.modules() if isinstance(m, PRODUCERS) and m in nodes]:
            self._reach(self._port(layer), range(_channels(layer, "out")))
        root = next(iter(nodes.values()))  # the graph is walked from the network's output
        self._reach(self._port(root.module), range(outputs))
        self._freeze(self._port(root.module))
        if self.traced.entry in nodes:
            self._freeze(self._port(self.traced.entry))

    def sides(self, ignored: Collection[str]) -> list[Side]:
        """Every side of a module that is tied to something, in the order of the network."""
        modules = {m: n for m, n in self.graph.module2node.items() if m in self.names}
        for module in modules:
            self._tie_within(module)
            if _unknown(module) or (isinstance(module, PRODUCERS) and self.names[module] in ignored):
                self._freeze(self._port(module, "out"))
            if _unknown(module):
                self._freeze(self._port(module, "in"))
        ordered = [module for module in self.names if module in modules]
        ways = [(m, way) for m in ordered for way in ("out", "in") if way == "out" or isinstance(m, PRODUCERS)]
        ports = [(m, way, self._port(m, way)) for m, way in ways if not _unknown(m)]
        ports = [(m, way, port) for m, way, port in ports if port in self.indices]
        number: dict[Any, int] = {self._find(FROZEN): FROZEN}
        found: list[Side] = []
        for module, way, port in sorted(ports, key=lambda entry: not _produces(entry[0], entry[1])):
            tensors, attributes = _layout(module, way)
            units = self._units(port, _channels(module, way), number)
            found.append(Side(self.names[module], tensors, attributes, units, _produces(module, way)))
        return found + self._loose(number)

    def _loose(self, number: dict[Any, int]) -> list[Side]:
        """Sides of parameters that no known module holds, such as a scale of each channel."""
        owners = {id(p): name for name, p in self.traced.net.named_parameters()}
        found = []
        for parameter, node in self.graph.module2node.items():
            if isinstance(parameter, nn.Parameter):
                owner, _, name = owners[id(parameter)].rpartition(".")
                port, size = self._port(parameter), parameter.shape[node.pruning_dim]
                if port in self.indices:
                    units = self._units(port, size, number)
                    found.append(Side(owner, {name: node.pruning_dim}, (), units, False))
        return sorted(found, key=lambda side: (side.module, *side.tensors))

    def _units(self, port: Any, size: int, number: dict[Any, int]) -> tuple[int, ...]:
        reached = self.indices[port]
        roots = [self._find((port, index)) if index in reached else self._find(FROZEN) for index in range(size)]
        return tuple(number.setdefault(root, len(number) - 1) for root in roots)

    def _port(self, module: Any, way: str = "out") -> Any:
        pruner = self.graph.get_pruner_of_module(module)
        cut = pruner.prune_out_channels if way == "out" else pruner.prune_in_channels
        return (self.graph.module2node[module], cut)

    def _reach(self, port: Any, indices: Iterable[int]) -> None:
        """Follow channels from ``port`` to all that they are tied to."""
        waiting = [(port, list(indices))]
        while waiting:
            port, arrived = waiting.pop()
            known = self.indices.setdefault(port, set())
            new = [index for index in arrived if index not in known]
            known.update(new)
            for dependency in port[0].dependencies if new else ():
                if dependency.trigger == port[1]:
                    target = (dependency.target, dependency.handler)
                    pairs = self._mapped(dependency, new)
                    for source, index in pairs:
                        self._join((port, source), (target, index))
                    waiting.append((target, [index for _, index in pairs]))

    def _mapped(self, dependency: Any, indices: list[int]) -> list[tuple[int, int]]:
        """``(index here, index there)`` along an edge; what broadcasting repeats is one channel there, and not tied."""
        hybrid = [torch_pruning._helpers._HybridIndex(idx=index, root_idx=index) for index in indices]
        for mapping in dependency.index_mapping:
            hybrid = mapping(hybrid) if mapping is not None else hybrid
        target = dependency.target.module
        incoming = dependency.handler != self.graph.get_pruner_of_module(target).prune_out_channels
        size = None if _passes(target) else _channels(target, "in" if incoming else "out")
        return [(pair.root_idx, pair.idx) for pair in hybrid if size is None or pair.idx < size]

    def _tie_within(self, module: Any) -> None:
        """Channels that a grouped layer's own shape ties: the same place in each group, or a whole group."""
        if isinstance(module, nn.GroupNorm):
            self._tie_places(self._port(module), module.num_channels, module.num_groups)
        if not isinstance(module, _ConvNd) or module.groups == 1 or _unknown(module):
            return
        if module.groups == module.in_channels:
            each = module.out_channels // module.in_channels
            for index in range(module.out_channels):
                self._join((self._port(module, "in"), index // each), (self._port(module, "out"), index))
        else:
            self._tie_places(self._port(module, "in"), module.in_channels, module.groups)
            self._tie_places(self._port(module, "out"), module.out_channels, module.groups)

    def _tie_places(self, port: Any, channels: int, groups: int) -> None:
        each = channels // groups
        for index in range(each, channels):
            self._join((port, index % each), (port, index))

    def _freeze(self, port: Any) -> None:
        for index in self.indices.get(port, ()):
            self._join((port, index), FROZEN)

    def _find(self, key: Any) -> Any:
        while (parent := self.parents.setdefault(key, key)) != key:
            self.parents[key] = self.parents[parent]
            key = parent
        return key

    def _join(self, one: Any, other: Any) -> None:
        self.parents[self._find(one)] = self._find(other)


def _produces(module: Any, way: str) -> bool:
    return way == "out" and isinstance(module, PRODUCERS)


def _passes(module: Any) -> bool:
    """Whether whatever number of channels passes."""
    return _unknown(module) or (isinstance(module, nn.PReLU) and module.num_parameters == 1)


def _unknown(module: Any) -> bool:
    """Whether a traced module's channels cannot be cut here."""
    if isinstance(module, _ConvTransposeNd):
        return True
    if isinstance(module, PRODUCERS) and module._parameters.get("weight") is None:  # it is made anew in each pass
        return True
    if isinstance(module, _ConvNd):  # torch-pruning takes this for depthwise, though a group has several inputs
        return 1 < module.groups == module.out_channels != module.in_channels
    if isinstance(module, nn.LayerNorm):
        return len(module.normalized_shape) != 1
    return not isinstance(module, SHAPED)


def _channels(module: Any, way: str) -> int:
    match module:
        case nn.Linear():
            return module.out_features if way == "out" else module.in_features
        case _ConvNd():
            return module.out_channels if way == "out" else module.in_channels
        case nn.GroupNorm():
            return module.num_channels
        case nn.PReLU():
            return module.num_parameters
        case nn.LayerNorm():
            return module.normalized_shape[-1]
    return cast(int, module.num_features)


def _layout(module: Any, way: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """The tensors that hold a slice for each channel, with the dimension, and the attributes that count them."""
    match module:
        case nn.Linear():
            tensors, attributes = ({"weight": 0, "bias": 0}, "out_features")
            return (tensors, (attributes,)) if way == "out" else ({"weight": 1}, ("in_features",))
        case _ConvNd():
            if way == "out":
                return {"weight": 0, "bias": 0}, ("out_channels",)
            if 1 < module.groups == module.in_channels:
                return {}, ("in_channels", "groups")
            return {"weight": 1}, ("in_channels",)
        case nn.GroupNorm():
            return {"weight": 0, "bias": 0}, ("num_channels",)
        case nn.LayerNorm():
            return {"weight": 0, "bias": 0}, ("normalized_shape",)
        case nn.PReLU():
            return ({"weight": 0}, ("num_parameters",)) if module.num_parameters > 1 else ({}, ())
    return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), 0), ("num_features",)


# Cutting ------------------------------------------------------------------------------------------


@torch.no_grad()
def remove_units(model: nn.Module, ties: Ties, units: Collection[int]) -> None:
    """Take the channels of ``units`` out of ``model`` in place; what stays keeps its values and its order."""
    gone = set(units)
    for side in ties.sides:
        keep = [index for index, unit in enumerate(side.units) if unit not in gone]
        if len(keep) == len(side.units):
            continue
        module = model.get_submodule(side.module)
        for name, dim in side.tensors.items():
            tensor = cast("Tensor | None", getattr(module, name))
            if tensor is not None:
                slices = [index for index in keep if index < tensor.shape[dim]]
                _put(module, name, tensor.index_select(dim, torch.tensor(slices, device=tensor.device)).contiguous())
        for attribute in side.attributes:
            setattr(module, attribute, (len(keep),) if attribute == "normalized_shape" else len(keep))


@torch.no_grad()
def mute_units(model: nn.Module, ties: Ties, units: Collection[int]) -> None:
    """Zero in place what every layer does with the channels of ``units``; the structure stays."""
    gone = set(units)
    for side in ties.sides:
        module = model.get_submodule(side.module)
        if isinstance(module, PRODUCERS) and not side.produces and side.tensors:
            weight = module.weight
            muted = [i for i, unit in enumerate(side.units) if unit in gone and i < weight.shape[1]]
            weight[:, muted] = 0


def removes_cleanly(model: nn.Module, ties: Ties, units: Collection[int], example_input: Tensor) -> bool:
    """Whether ``model`` computes without the channels of ``units`` what it computes with their use at zero.

    Compared on one image and on two. Normalizations over several channels, which differ, are left out on both sides.
    """
    two = torch.randn((2, *example_input.shape[1:]), generator=torch.Generator().manual_seed(0))
    muted, cut = (copy.deepcopy(model).cpu().eval() for _ in range(2))
    mute_units(muted, ties, units)
    remove_units(cut, ties, units)
    try:
        for images in (example_input.cpu(), two):
            with torch.no_grad():
                if cut(images).shape != muted(images).shape:
                    return False
        return _close(_compute(cut, two), _compute(muted, two))
    except Exception:  # a user's forward may raise anything
        return False


@torch.no_grad()
def _compute(model: nn.Module, images: Tensor) -> Tensor:
    """The outputs with normalizations over several channels left out, in float64 where the network can."""
    for name, module in list(model.named_modules()):
        if isinstance(module, MIXING):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
    try:
        wide: Tensor = copy.deepcopy(model).double()(images.double())
        return wide
    except RuntimeError:  # a forward that makes float32 of something
        plain: Tensor = model(images)
        return plain


def _close(found: Tensor, wanted: Tensor) -> bool:
    error = 1e-9 if wanted.dtype == torch.float64 else 1e-4
    return torch.allclose(found, wanted, rtol=0, atol=error * float(wanted.abs().max()), equal_nan=True)


# Shapes -------------------------------------------------------------------------------------------


def shapes_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The attributes and tensor shapes of each module that holds tensors, by its name, as JSON can hold them."""
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
    """Give modules of ``model`` in place what ``shapes_of`` said of them; resized tensors hold zeros."""
    for name, described in shapes.items():
        module = model.get_submodule(name)
        for key, value in described.items():
            if key != "shapes":
                setattr(module, key, tuple(value) if isinstance(value, list) else value)
        for key, shape in described["shapes"].items():
            tensor = cast(Tensor, getattr(module, key))
            if list(tensor.shape) != shape:
                _put(module, key, tensor.detach().new_zeros(shape))


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    before = getattr(module, name)
    if isinstance(before, nn.Parameter):
        setattr(module, name, nn.Parameter(tensor, requires_grad=before.requires_grad))
    else:
        setattr(module, name, tensor)
