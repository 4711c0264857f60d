"""What a method did to each layer: sparsity, bits, bytes, channels and the weights' values, before and after."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.reporting.gathering import Item

log = logging.getLogger(__name__)
BINS = 41
FEW_VALUES = 64  # a layer of so few distinct values is drawn as one line for each
MOST_LAYERS = 30  # of which the weights are drawn for one row: the largest
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Histogram:
    """How often each value occurs among the weights that are not zero.

    Attributes:
        at: Lower ends of the bins, and the upper end of the last; or the values, if there are few.
        counts: Weights in each bin, or of each value.
        zeros: Weights that are zero; they are in no bin.
        values: Whether ``at`` are values.
    """

    at: Sequence[float]
    counts: Sequence[int]
    zeros: int
    values: bool


@dataclass(frozen=True)
class Layer:
    """A weight as ``stage.json`` describes it.

    Attributes:
        name: Name of the weight.
        shape: Its shape.
        sparsity: Share of zeros.
        bits: Bits of a weight as the stage stores it.
        distinct: Number of distinct values.
        kept_channels: Outputs with a weight that is not zero.
        size_bytes: ``parameters * bits / 8``, rounded up.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: float
    bits: float
    distinct: int
    kept_channels: int
    size_bytes: int


@dataclass(frozen=True)
class Change:
    """A weight of the baseline beside the same weight of a variant.

    Attributes:
        before, after: The weight in each; None if it is not there, as of a layer that was split in two.
    """

    before: Layer | None
    after: Layer | None

    @property
    def name(self) -> str:
        layer = self.after or self.before
        assert layer is not None
        return layer.name

    @property
    def removed_channels(self) -> int | None:
        """Outputs that are gone or have become zero; None if one of the two is not there."""
        if self.before is None or self.after is None:
            return None
        return self.before.kept_channels - self.after.kept_channels


def layers_of(record: Mapping[str, Any]) -> dict[str, Layer]:
    """The layers of a stage by name; those that are not described as this version does are left out."""
    found = {}
    for each in record.get("layers") or ():
        try:
            parameters, bits = int(each["parameters"]), float(each["bits"])
            layer = Layer(
                name=str(each["name"]),
                shape=tuple(int(size) for size in each["shape"]),
                sparsity=float(each["sparsity"]),
                bits=bits,
                distinct=int(each["distinct_values"]),
                kept_channels=int(each["kept_channels"]),
                size_bytes=math.ceil(parameters * bits / 8),
            )
        except (KeyError, TypeError, ValueError):
            continue
        found[layer.name] = layer
    return found


def changes(item: Item) -> list[Change]:
    """Each weight of the baseline's stage beside that of the item's own, in the order of the network.

    Empty if one of the stages is not here. Of a baseline, both are the same.
    """
    if item.row.identity not in item.stages:
        return []
    first, last = next(iter(item.stages.values())), item.stages[item.row.identity]
    if first.get("kind") != "baseline":
        return []
    before, after = layers_of(first), layers_of(last)
    return [Change(before.get(name), after.get(name)) for name in dict.fromkeys([*after, *before])]


def histograms(item: Item, names: Sequence[str]) -> dict[str, tuple[Histogram | None, Histogram | None]]:
    """The weights of layers before and after, in bins that the two share.

    Of a quantized stage these are the float weights that it rounds.

    Args:
        item: The row.
        names: Names of its weights.
    """
    first = next(iter(item.stages), None)
    if first is None or item.row.identity not in item.stages:
        return {}
    paths = [item.artifacts / identity / WEIGHTS for identity in (first, item.row.identity)]
    before, after = (_weights(path, names) for path in paths)
    found = {}
    for name in names:
        pair = (before.get(name), after.get(name))
        largest = max((float(np.abs(each).max(initial=0)) for each in pair if each is not None), default=0.0)
        if largest > 0 and math.isfinite(largest):
            found[name] = (_histogram(pair[0], largest), _histogram(pair[1], largest))
    return found


def _weights(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The weights of a stage by name, flat; none if its file is not here."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            there = set(file.keys())
            return {name: file.get_tensor(name).float().numpy().ravel() for name in names if name in there}
    except (OSError, SafetensorError):
        log.info("%s cannot be read", path, exc_info=True)
        return {}


def _histogram(weights: np.ndarray | None, largest: float) -> Histogram | None:
    if weights is None:
        return None
    others = weights[weights != 0]
    zeros = int(len(weights) - len(others))
    if len(others) > FEW_VALUES:
        some = np.unique(others[: 100 * FEW_VALUES])
        values = np.unique(others) if len(some) <= FEW_VALUES else some
    else:
        values = np.unique(others)
    if len(values) <= FEW_VALUES:
        counts = np.bincount(np.searchsorted(values, others), minlength=len(values))
        return Histogram([float(f"{value:.5g}") for value in values], counts.tolist(), zeros, True)
    counts, edges = np.histogram(others, BINS, (-largest, largest))
    return Histogram([float(f"{edge:.4g}") for edge in edges], counts.tolist(), zeros, False)
