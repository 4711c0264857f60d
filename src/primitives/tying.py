"""Finding which channels of a network can only stay or go together."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, cast

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from src.contracts import first_line
from src.primitives.channels import FROZEN, PRODUCERS, SHAPED, Side, Ties


def tie_channels(model: nn.Module, example_input: Tensor, ignored: Collection[str] = ()) -> Ties:
    """Find which channels can only go together, by torch-pruning's dependency graph.

    These channels are frozen, and belong to no unit: the network's outputs and its input, the outputs of the layers
    called ``ignored``, the channels of modules that cannot be resized here (transposed convolutions, attention,
    recurrent layers), and all channels that are tied to any of these.

    Args:
        model: It is left as it was.
        example_input: ``[1, c, h, w]``.
        ignored: Names of layers.

    Raises:
        ValueError: torch-pruning cannot trace the network.

    Paper: Fang et al. 2023 (DepGraph), arXiv:2301.12900, section 3.

    >>> model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5))
    >>> ties = tie_channels(model, torch.ones(1, 3, 2, 2))
    >>> ties.groups
    {'0': (0, 1)}
    >>> [side.units for side in ties.sides if FROZEN not in side.units]  # layer 3 reads each channel four times
    [(0, 1), (0, 0, 0, 0, 1, 1, 1, 1)]
    """
    tied = _TiedChannels(model, example_input)
    sides = tied.sides(ignored)
    counts: dict[int, dict[str, int]] = {}
    for side in sides:
        for unit, count in Counter(side.units).items():
            if side.produces and unit != FROZEN:
                counts.setdefault(unit, {})[side.module] = count
    groups: dict[str, list[int]] = {}
    for unit in sorted(counts):
        name = "+".join(layer if count == 1 else f"{layer}*{count}" for layer, count in counts[unit].items())
        groups.setdefault(name, []).append(unit)
    groups_of_units = {name: tuple(units) for name, units in groups.items()}
    return Ties(tuple(sides), groups_of_units, tuple(name for name in tied.not_followed if name not in ignored))


class _WithEntry(nn.Module):
    """The network behind a convolution, so that a layer produces the image's channels, too."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(channels, channels, 1)
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(self.entry(images))


class _DisjointSets:
    """Sets that can be joined; each is known by its root."""

    def __init__(self) -> None:
        self.parents: dict[Any, Any] = {}

    def root(self, member: Any) -> Any:
        while (parent := self.parents.setdefault(member, member)) != member:
            self.parents[member] = self.parents[parent]
            member = parent
        return member

    def join(self, one: Any, other: Any) -> None:
        self.parents[self.root(one)] = self.root(other)


def _traced_graph(traced: nn.Module, images: Tensor) -> tuple[Any, list[Any]]:
    """torch-pruning's dependency graph of a network, and the nodes whose channels it cannot number.

    Raises:
        ValueError: torch-pruning cannot trace the network.
    """
    graph = torch_pruning.DependencyGraph()
    try:
        graph.build_dependency(traced, images, forward_fn=lambda network, batch: network(batch), verbose=False)
        return graph, []
    except Exception as error:  # it raises errors of any type if it cannot trace a network
        if not isinstance(error, ZeroDivisionError) or not hasattr(graph, "module2node"):
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(f"torch-pruning cannot follow the network's channels ({reason})") from error
    # It failed as it numbered the channels, the last thing that it does: a channel shuffle. The others can be numbered.
    nodes, not_understood = graph.module2node, []
    for module, node in nodes.items():
        graph.module2node = {module: node}
        try:
            torch_pruning.dependency.index_mapping.update_index_mapping(graph)
        except ZeroDivisionError:
            not_understood.append(node)
    graph.module2node = nodes
    return graph, not_understood


class _TiedChannels:
    """A network's dependency graph, and the sets of channels that it ties.

    A port is the inputs or the outputs of a node of the graph: ``(node, function that prunes there)``. A channel is
    ``(port, index)``.
    """

    def __init__(self, model: nn.Module, example_input: Tensor) -> None:
        net = copy.deepcopy(model).to("cpu").to(memory_format=torch.contiguous_format).requires_grad_(True)
        self.traced = _WithEntry(net, example_input.shape[1])
        self.names = {module: name for name, module in net.named_modules()}
        with torch.enable_grad():
            images = example_input.detach().to("cpu")
            self.graph, self.not_understood = _traced_graph(self.traced, images)
            outputs = self.traced(images).shape[1]
        self.sets = _DisjointSets()
        self.most = max((_channel_count(m, end) for m in self._layers() for end in ("in", "out")), default=0)
        self.indices: dict[Any, set[int]] = {}  # by port, the channels that were followed to it
        self.lost: list[Any] = []  # channels that could not be followed further
        self.not_followed: tuple[str, ...] = ()
        nodes = self.graph.module2node
        entry = [self.traced.entry] if self.traced.entry in nodes else []
        for layer in [*entry, *self._layers()]:
            self._follow(self._port(layer), range(_channel_count(layer, "out")))
        root = next(iter(nodes.values()))  # the graph is built from the network's output backwards
        self._follow(self._port(root.module), range(outputs))
        self._freeze(self._port(root.module))
        for layer in entry:
            self._freeze(self._port(layer))
        self.fixed = {self.names[layer] for layer in self._layers() if self._is_frozen(layer)}

    def sides(self, ignored: Collection[str]) -> list[Side]:
        """Every side of a module that is tied to something: first layers' outputs, then all others."""
        for channel in self.lost:
            self.sets.join(channel, FROZEN)
        for module in [module for module in self.graph.module2node if module in self.names]:
            self._tie_within(module)
            if _unknown(module):
                self._freeze(self._port(module, "out"))
                self._freeze(self._port(module, "in"))
        self._note_what_is_not_followed()
        for module in self._layers():
            if self.names[module] in ignored:
                self._freeze(self._port(module, "out"))
        known = [module for module in self.names if module in self.graph.module2node and not _unknown(module)]
        ends = [(m, end) for m in known for end in ("out", "in") if end == "out" or isinstance(m, PRODUCERS)]
        ports = [(m, end, self._port(m, end)) for m, end in ends]
        ports = [(m, end, port) for m, end, port in ports if port in self.indices]
        unit_of: dict[Any, int] = {self.sets.root(FROZEN): FROZEN}
        found: list[Side] = []
        for module, end, port in sorted(ports, key=lambda entry: not _produces(entry[0], entry[1])):
            tensors, attributes = _layout(module, end)
            units = self._units(port, _channel_count(module, end), unit_of)
            found.append(Side(self.names[module], tensors, attributes, units, _produces(module, end)))
        return found + self._parameter_sides(unit_of)

    def _note_what_is_not_followed(self) -> None:
        """Remember the layers whose outputs are frozen, though they are neither the network's outputs nor its input."""
        known = set(self._layers())
        frozen = [
            name
            for module, name in self.names.items()
            if isinstance(module, PRODUCERS) and (module not in known or self._is_frozen(module))
        ]
        self.not_followed = tuple(name for name in frozen if name not in self.fixed)

    def _layers(self) -> list[Any]:
        """The layers that the graph holds."""
        return [m for m in self.names if isinstance(m, PRODUCERS) and m in self.graph.module2node]

    def _is_frozen(self, layer: Any) -> bool:
        """Whether all outputs of a layer are frozen."""
        port = self._port(layer)
        return all(self.sets.root((port, i)) == self.sets.root(FROZEN) for i in range(_channel_count(layer, "out")))

    def _parameter_sides(self, unit_of: dict[Any, int]) -> list[Side]:
        """Sides of parameters that belong to no known module, e.g. a scale for each channel."""
        owners = {id(p): name for name, p in self.traced.net.named_parameters()}
        found = []
        for parameter, node in self.graph.module2node.items():
            if isinstance(parameter, nn.Parameter):
                owner, _, name = owners[id(parameter)].rpartition(".")
                port, size = self._port(parameter), parameter.shape[node.pruning_dim]
                if port in self.indices:
                    units = self._units(port, size, unit_of)
                    found.append(Side(owner, {name: node.pruning_dim}, (), units, False))
        return sorted(found, key=lambda side: (side.module, *side.tensors))

    def _units(self, port: Any, size: int, unit_of: dict[Any, int]) -> tuple[int, ...]:
        """The unit of each channel of a port; ``unit_of`` holds the unit of each root, and new roots are added."""
        tied = self.indices[port]
        roots = [self.sets.root((port, index)) if index in tied else self.sets.root(FROZEN) for index in range(size)]
        return tuple(unit_of.setdefault(root, len(unit_of) - 1) for root in roots)

    def _port(self, module: Any, end: str = "out") -> Any:
        pruner = self.graph.get_pruner_of_module(module)
        return (self.graph.module2node[module], pruner.prune_out_channels if end == "out" else pruner.prune_in_channels)

    def _follow(self, port: Any, indices: Iterable[int]) -> None:
        """Join the channels of ``port`` with all channels along the graph that they are tied to."""
        waiting = [(port, list(indices))]
        while waiting:
            port, arrived = waiting.pop()
            known = self.indices.setdefault(port, set())
            new = [index for index in arrived if index not in known]
            known.update(new)
            for dependency in port[0].dependencies if new else ():
                if dependency.trigger == port[1]:
                    target = (dependency.target, dependency.handler)
                    pairs = self._along_edge(dependency, new)
                    if pairs is None:
                        self.lost += [(port, index) for index in new]
                        continue
                    for source, index in pairs:
                        self.sets.join((port, source), (target, index))
                    waiting.append((target, [index for _, index in pairs]))

    def _along_edge(self, dependency: Any, indices: list[int]) -> list[tuple[int, int]] | None:
        """Pairs ``(index at the source, index at the target)``; None if torch-pruning cannot say them.

        If broadcasting repeats one channel of the target, its repetitions are dropped, and are not tied.
        """
        if dependency.target in self.not_understood:
            return None
        hybrid = [torch_pruning._helpers._HybridIndex(idx=index, root_idx=index) for index in indices]
        try:
            for mapping in dependency.index_mapping:
                hybrid = mapping(hybrid) if mapping is not None else hybrid
        except IndexError:  # the two halves of a chunk of which only one is used
            return None
        target = dependency.target.module
        incoming = dependency.handler != self.graph.get_pruner_of_module(target).prune_out_channels
        size = None if _takes_any_number(target) else _channel_count(target, "in" if incoming else "out")
        if size is None and any(pair.idx >= self.most for pair in hybrid):
            return None  # no layer has so many channels: the numbers are wrong
        return [(pair.root_idx, pair.idx) for pair in hybrid if size is None or pair.idx < size]

    def _tie_within(self, module: Any) -> None:
        """Tie the channels that a grouped layer's own shape ties: the same place in each group, or a whole group."""
        if isinstance(module, nn.GroupNorm):
            self._tie_places(self._port(module), module.num_channels, module.num_groups)
        if not isinstance(module, _ConvNd) or module.groups == 1 or _unknown(module):
            return
        if module.groups == module.in_channels:
            outputs_of_input = module.out_channels // module.in_channels
            for index in range(module.out_channels):
                self.sets.join(
                    (self._port(module, "in"), index // outputs_of_input), (self._port(module, "out"), index)
                )
        else:
            self._tie_places(self._port(module, "in"), module.in_channels, module.groups)
            self._tie_places(self._port(module, "out"), module.out_channels, module.groups)

    def _tie_places(self, port: Any, channels: int, groups: int) -> None:
        group_size = channels // groups
        for index in range(group_size, channels):
            self.sets.join((port, index % group_size), (port, index))

    def _freeze(self, port: Any) -> None:
        for index in self.indices.get(port, ()):
            self.sets.join((port, index), FROZEN)


def _produces(module: Any, end: str) -> bool:
    return end == "out" and isinstance(module, PRODUCERS)


def _takes_any_number(module: Any) -> bool:
    """Whether any number of channels can pass through the module."""
    return _unknown(module) or (isinstance(module, nn.PReLU) and module.num_parameters == 1)


def _unknown(module: Any) -> bool:
    """Whether a traced module is of a kind that cannot be resized here."""
    if isinstance(module, _ConvTransposeNd):
        return True
    if isinstance(module, PRODUCERS) and module._parameters.get("weight") is None:  # computed again in each pass
        return True
    if isinstance(module, _ConvNd):  # torch-pruning takes this for depthwise, though a group has several inputs
        return 1 < module.groups == module.out_channels != module.in_channels
    if isinstance(module, nn.LayerNorm):
        return len(module.normalized_shape) != 1
    return not isinstance(module, SHAPED)


def _channel_count(module: Any, end: str) -> int:
    match module:
        case nn.Linear():
            return module.out_features if end == "out" else module.in_features
        case _ConvNd():
            return module.out_channels if end == "out" else module.in_channels
        case nn.GroupNorm():
            return module.num_channels
        case nn.PReLU():
            return module.num_parameters
        case nn.LayerNorm():
            return module.normalized_shape[-1]
    return cast(int, module.num_features)


def _layout(module: Any, end: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """The tensors that hold a slice for each channel, with the dimension, and the attributes that count channels."""
    match module:
        case nn.Linear():
            if end == "out":
                return {"weight": 0, "bias": 0}, ("out_features",)
            return {"weight": 1}, ("in_features",)
        case _ConvNd():
            if end == "out":
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
