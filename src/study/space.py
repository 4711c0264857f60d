"""The space of a search: which steps a chain may have, and which values their settings may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

# The chosen value of each dimension by the dimension's name, such as ``prune.sparsity``; the name of an optional step
# says whether the chain has it. Settings of a step that is left out are left out, too.
Point = dict[str, Any]


class Chooser(Protocol):
    """Chooses the values of dimensions; an Optuna trial is one."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@runtime_checkable
class Dimension(Protocol):
    """A setting that is searched.

    Attributes:
        hardest: The value that compresses most.
    """

    hardest: Any

    def choose(self, chooser: Chooser, name: str) -> Any:
        """Let ``chooser`` choose the value of the dimension ``name``."""
        ...

    def nearest(self, value: Any) -> Any:
        """The allowed value nearest to ``value``."""
        ...


class Number:
    """A real number.

    Args:
        mildest, hardest: The ends of the range, named by how much they compress; in either order for a setting that
            compresses nothing, such as a learning rate.
        log: Whether values are chosen by their ratios, not by their differences; both ends are then more than 0.
        step: Distance of the values that may be chosen, so that trials find each other's stages again; null allows
            every value.

    Raises:
        ValueError: An end is no number, or not more than 0 if ``log`` is true; or ``step`` does not divide the range.
    """

    def __init__(self, *, mildest: float, hardest: float, log: bool, step: float | None = None) -> None:
        _check_ends(mildest, hardest, log)
        if step is not None and (log or isinstance(step, (bool, str)) or not _divides(step, hardest - mildest)):
            raise ValueError(f"step must divide the range, and log be false, and it is {step}")
        self.hardest: Any = hardest
        self.low, self.high, self.log, self.step = min(mildest, hardest), max(mildest, hardest), log, step

    def choose(self, chooser: Chooser, name: str) -> float:
        return chooser.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def nearest(self, value: float) -> float:
        if self.step is not None:
            value = self.low + self.step * round((value - self.low) / self.step)
        return min(max(float(value), self.low), self.high)


class Whole:
    """A whole number.

    Args:
        mildest, hardest: The ends of the range, both included, named by how much they compress.
        log: Whether values are chosen by their ratios, not by their differences; both ends are then more than 0.

    Raises:
        ValueError: An end is no number, or not more than 0 if ``log`` is true.
    """

    def __init__(self, *, mildest: int, hardest: int, log: bool) -> None:
        _check_ends(mildest, hardest, log)
        self.hardest: Any = hardest
        self.low, self.high, self.log = min(mildest, hardest), max(mildest, hardest), log

    def choose(self, chooser: Chooser, name: str) -> int:
        return chooser.suggest_int(name, self.low, self.high, log=self.log)

    def nearest(self, value: float) -> int:
        return min(max(round(value), self.low), self.high)


class Choice:
    """One of several words, numbers or null.

    Args:
        options: The values that may be chosen; the last one compresses most.

    Raises:
        ValueError: There is no option.
    """

    def __init__(self, *, options: Sequence[Any]) -> None:
        if not options:
            raise ValueError("options is empty: at least one is needed")
        self.options = list(options)
        self.hardest: Any = self.options[-1]

    def choose(self, chooser: Chooser, name: str) -> Any:
        return chooser.suggest_categorical(name, self.options)

    def nearest(self, value: Any) -> Any:
        return value if value in self.options else self.hardest


@dataclass(frozen=True, kw_only=True)
class EachLayer:
    """One dimension for each layer of the network.

    Attributes:
        of: The dimension that each layer gets.
        curve: The curve of ``sensitivity.json`` that gives the first values: ``sparsity``, ``bits`` or ``clusters``.

    Raises:
        ValueError: There is no such curve.
    """

    of: Dimension
    curve: str

    def __post_init__(self) -> None:
        if self.curve not in ("sparsity", "bits", "clusters"):
            raise ValueError(f"curve must be sparsity, bits or clusters, and is {self.curve}")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that a chain may have.

    Attributes:
        method: Name of a file of ``conf/method``.
        optional: Whether a chain may leave the step out.
        set: Settings that differ from the method's file and are not searched, by their dotted keys.
        choose: Dimensions by the keys of the settings that they choose, nested as the method's config is.

    Raises:
        ValueError: ``set`` or ``choose`` is no mapping.
    """

    method: str
    optional: bool
    set: Mapping[str, Any] = field(default_factory=dict)
    choose: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("set", "choose"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must hold settings by their keys, and is {getattr(self, name)}")


class Space:
    """All chains that a search may try.

    Args:
        steps: Steps by name, in the order of the chain.
        layers: Names of the network's weights, for dimensions of each layer.

    Raises:
        ValueError: An entry is no step or no dimension, or there is nothing to choose.
    """

    def __init__(self, steps: Mapping[str, Step], layers: Sequence[str]) -> None:
        for name, step in steps.items():
            if not isinstance(step, Step):
                raise ValueError(f"space.{name} is {step!r}, which is no step; ~space.{name} leaves it out")
        if not any(step.optional or step.choose for step in steps.values()):
            raise ValueError("space is empty: there is nothing to choose")
        self.steps, self.layers = dict(steps), list(layers)
        self.dimensions: dict[str, dict[str, Dimension]] = {
            name: dict(_dimensions(step.choose, f"{name}.", self.layers)) for name, step in self.steps.items()
        }

    def choose(self, chooser: Chooser) -> Point:
        """Let ``chooser`` choose a point.

        Every dimension is chosen in every trial, so that all trials lie in one space; settings of a step that is left
        out are then dropped.
        """
        point: Point = {}
        for name, step in self.steps.items():
            if step.optional:
                point[name] = chooser.suggest_categorical(name, [True, False])
            settings = {key: dimension.choose(chooser, key) for key, dimension in self.dimensions[name].items()}
            if point.get(name, True):
                point |= settings
        return point

    def hardest_point(self, without: Sequence[str] = (), distance: float = 0.0) -> Point:
        """The point that has every step, each setting at the end of its range that compresses most.

        Args:
            without: Optional steps to leave out.
            distance: Distance of numeric settings from that end, as a share of their range, 0 … 1.
        """
        point: Point = {name: name not in without for name, step in self.steps.items() if step.optional}
        for name, dims in self.dimensions.items():
            if point.get(name, True):
                point |= {key: _near_hardest(dim, distance) for key, dim in dims.items()}
        return point

    def completed(self, given: Mapping[str, Any]) -> Point:
        """A whole point from the given values: other steps are in the chain, other settings in the middle.

        Args:
            given: Values by dimension; each is moved to the nearest allowed value.

        Raises:
            ValueError: There is no dimension of such a name, or a value is no number.
        """
        names = [name for name, step in self.steps.items() if step.optional]
        known = {*names, *(key for dims in self.dimensions.values() for key in dims)}
        unknown = [key for key in given if key not in known]
        if unknown:
            raise ValueError(f"there is no dimension {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
        point = {name: bool(given.get(name, True)) for name in names}
        for name, dims in self.dimensions.items():
            if point.get(name, True):
                for key, dimension in dims.items():
                    point[key] = _nearest_given(dimension, key, given) if key in given else _middle(dimension)
        return point

    def overrides(self, point: Mapping[str, Any], name: str) -> list[str]:
        """The command line's overrides that make the chain of ``point``; the chain is called ``name``."""
        chain = ["method=chain", f"method.name={name}"]
        for step_name, step in self.steps.items():
            if not point.get(step_name, True):
                continue
            at = f"method.steps.{step_name}"
            chain.append(f"+method@{at}={step.method}")
            chain += [f"++{at}.{key}={override_text(value)}" for key, value in _leaves(step.set)]
            layers: dict[str, dict[str, Any]] = {}
            for key in self.dimensions[step_name]:
                setting, _, layer = key.removeprefix(f"{step_name}.").partition(":")
                if layer:
                    layers.setdefault(setting, {})[layer] = point[key]
                else:
                    chain.append(f"++{at}.{setting}={override_text(point[key])}")
            chain += [f"++{at}.{setting}={override_text(values)}" for setting, values in layers.items()]
        return chain

    def point_from_sensitivity(self, sensitivity: Mapping[str, Any], drop: float) -> Point:
        """A point that compresses each layer as hard as ``drop`` allows if that layer alone is compressed.

        Args:
            sensitivity: The record that ``python -m src.sensitivity`` wrote.
            drop: Validation accuracy that each layer alone may cost, a share.

        Raises:
            ValueError: The record is of another network, or lacks a curve that the space needs.
        """
        given: Point = {}
        if not any(layer in sensitivity["layers"] for layer in self.layers):
            raise ValueError(f"it is of another network: it has none of the layers {', '.join(self.layers)}")
        for name, step in self.steps.items():
            for setting, dimension in _each_layer(step.choose):
                values = {
                    layer: _hardest_allowed(sensitivity, layer, dimension.curve, drop)
                    for layer in self.layers
                    if layer in sensitivity["layers"]
                }
                overall = f"{name}.sparsity"
                if dimension.curve == "sparsity" and overall in self.dimensions[name]:  # ratios of one sparsity
                    counts = {layer: sensitivity["layers"][layer]["parameters"] for layer in values}
                    given[overall] = sum(values[layer] * n for layer, n in counts.items()) / sum(counts.values())
                    values = {layer: value / max(given[overall], 1e-9) for layer, value in values.items()}
                given |= {f"{name}.{setting}:{layer}": value for layer, value in values.items()}
        return self.completed(given)


def override_text(value: Any) -> str:
    """A value as an override on Hydra's command line.

    >>> override_text({"a.b": [0.5, None, True]})
    '{a.b:[0.5,null,true]}'
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{override_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(override_text(each) for each in value) + "]"
    return str(value)


def _check_ends(mildest: float, hardest: float, log: bool) -> None:
    for name, value in (("mildest", mildest), ("hardest", hardest)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} must be a number, and is {value}")
        if log and value <= 0:
            raise ValueError(f"{name} must be more than 0 if log is true, and is {value}")


def _divides(step: float, length: float) -> bool:
    return step > 0 and length != 0 and abs(length / step - round(length / step)) < 1e-9


def _dimensions(choose: Mapping[str, Any], at: str, layers: Sequence[str]) -> Iterator[tuple[str, Dimension]]:
    for key, value in choose.items():
        if isinstance(value, Mapping):
            yield from _dimensions(value, f"{at}{key}.", layers)
        elif isinstance(value, EachLayer):
            yield from ((f"{at}{key}:{layer}", value.of) for layer in layers)
        elif isinstance(value, Dimension):
            yield f"{at}{key}", value
        elif value is not None:
            raise ValueError(f"{at}{key} is {value!r}, which is no dimension: what is fixed belongs under set")


def _each_layer(choose: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, EachLayer]]:
    for key, value in choose.items():
        if isinstance(value, Mapping):
            yield from _each_layer(value, f"{at}{key}.")
        elif isinstance(value, EachLayer):
            yield f"{at}{key}", value


def _leaves(settings: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _nearest_given(dimension: Dimension, key: str, given: Mapping[str, Any]) -> Any:
    try:
        return dimension.nearest(given[key])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} must be a number, and is {given[key]!r}") from error


def _near_hardest(dimension: Dimension, distance: float) -> Any:
    if distance and isinstance(dimension, (Number, Whole)):
        mildest = dimension.low if dimension.hardest == dimension.high else dimension.high
        return dimension.nearest(dimension.hardest + distance * (mildest - dimension.hardest))
    return dimension.hardest


def _middle(dimension: Dimension) -> Any:
    if isinstance(dimension, (Number, Whole)):
        low, high = dimension.low, dimension.high
        return dimension.nearest((low * high) ** 0.5 if dimension.log else (low + high) / 2)
    return dimension.hardest


def _hardest_allowed(sensitivity: Mapping[str, Any], layer: str, curve: str, drop: float) -> float:
    """The hardest value tried on a layer that costs at most ``drop``; the mildest if each costs more."""
    if curve not in sensitivity["layers"][layer]:
        raise ValueError(f"it has no {curve} of layer {layer}: python -m src.sensitivity tries them")
    accuracies = {float(value): accuracy for value, accuracy in sensitivity["layers"][layer][curve].items()}
    hardest_first = sorted(accuracies, reverse=curve == "sparsity")
    for value in hardest_first:
        if sensitivity["accuracy"] - accuracies[value] <= drop:
            return value
    return hardest_first[-1]
