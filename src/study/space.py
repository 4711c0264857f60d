"""What a search may choose: which steps are in the chain, and the settings of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

Point = dict[str, Any]  # a choice for every dimension that counts, by the dimension's name


class Chooser(Protocol):
    """Gives values to dimensions; an Optuna trial is one."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@runtime_checkable
class Dimension(Protocol):
    """A setting that is searched; ``hardest`` is the value that compresses most."""

    hardest: Any

    def choose(self, chooser: Chooser, name: str) -> Any:
        """Ask for a value."""
        ...

    def within(self, value: Any) -> Any:
        """The nearest value that may be chosen."""
        ...


class Number:
    """A real number.

    Args:
        mildest, hardest: The ends of the range, named by how much they compress (of what compresses nothing, such as
            a rate, either way round).
        log: Whether ratios count, not differences; then both are more than 0.
        step: Only values so far apart are chosen, so that stages of earlier trials are found again; null for any.
    """

    def __init__(self, *, mildest: float, hardest: float, log: bool, step: float | None = None) -> None:
        _check_ends(mildest, hardest, log)
        if step is not None and (log or isinstance(step, (bool, str)) or not _divides(step, hardest - mildest)):
            raise ValueError(f"step must divide the range, and log be false, and it is {step}")
        self.hardest: Any = hardest
        self.low, self.high, self.log, self.step = min(mildest, hardest), max(mildest, hardest), log, step

    def choose(self, chooser: Chooser, name: str) -> float:
        return chooser.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def within(self, value: float) -> float:
        if self.step is not None:
            value = self.low + self.step * round((value - self.low) / self.step)
        return min(max(float(value), self.low), self.high)


class Whole:
    """A whole number.

    Args:
        mildest, hardest: The ends of the range, both included, named by how much they compress.
        log: Whether ratios count, not differences; then both are more than 0.
    """

    def __init__(self, *, mildest: int, hardest: int, log: bool) -> None:
        _check_ends(mildest, hardest, log)
        self.hardest: Any = hardest
        self.low, self.high, self.log = min(mildest, hardest), max(mildest, hardest), log

    def choose(self, chooser: Chooser, name: str) -> int:
        return chooser.suggest_int(name, self.low, self.high, log=self.log)

    def within(self, value: float) -> int:
        return min(max(round(value), self.low), self.high)


class Choice:
    """One of several words, numbers or null.

    Args:
        options: At least one, the one that compresses most last.
    """

    def __init__(self, *, options: Sequence[Any]) -> None:
        if not options:
            raise ValueError("options is empty: at least one is needed")
        self.options = list(options)
        self.hardest: Any = self.options[-1]

    def choose(self, chooser: Chooser, name: str) -> Any:
        return chooser.suggest_categorical(name, self.options)

    def within(self, value: Any) -> Any:
        return value if value in self.options else self.hardest


@dataclass(frozen=True, kw_only=True)
class EachLayer:
    """One dimension for each layer of the network.

    Attributes:
        of: What each of them is.
        curve: Which curve of ``sensitivity.json`` says where to begin: ``sparsity``, ``bits`` or ``clusters``.
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
        method: A name of ``conf/method``.
        optional: Whether it may be left out.
        set: Settings that differ from the method's file and are not searched, by their dotted keys.
        choose: Dimensions, at the places of the settings that they choose.
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
        steps: By step name, in the order of the chain.
        layers: Weight names of the network, for dimensions of each layer.
    """

    def __init__(self, steps: Mapping[str, Step], layers: Sequence[str]) -> None:
        for name, step in steps.items():
            if not isinstance(step, Step):
                raise ValueError(f"space.{name} is {step!r}, which is no step; ~space.{name} leaves it out")
        if not any(step.optional or step.choose for step in steps.values()):
            raise ValueError("space is empty: there is nothing to choose")
        self.steps, self.layers = dict(steps), list(layers)
        self.dimensions: dict[str, dict[str, Dimension]] = {
            name: dict(_flat(step.choose, f"{name}.", self.layers)) for name, step in self.steps.items()
        }

    def choose(self, chooser: Chooser) -> Point:
        """Ask for a point: whether each optional step is there, and its settings, which count only if it is.

        Every dimension is asked for each time, so that all trials lie in one space.
        """
        point: Point = {}
        for name, step in self.steps.items():
            if step.optional:
                point[name] = chooser.suggest_categorical(name, [True, False])
            settings = {key: dimension.choose(chooser, key) for key, dimension in self.dimensions[name].items()}
            if point.get(name, True):
                point |= settings
        return point

    def hardest(self, without: Sequence[str] = (), softened: float = 0.0) -> Point:
        """Every step but optional ones of ``without``, each setting at the end that compresses most.

        Args:
            without: Steps that are left out.
            softened: Share of each numeric range that settings stay away from that end, 0 … 1.
        """
        point: Point = {name: name not in without for name, step in self.steps.items() if step.optional}
        for name, dims in self.dimensions.items():
            if point.get(name, True):
                point |= {key: _softer(dim, softened) for key, dim in dims.items()}
        return point

    def complete(self, given: Mapping[str, Any]) -> Point:
        """A point with what is given; of the rest each step is there, each setting in the middle of its range.

        Raises:
            ValueError: A name that no dimension has.
        """
        names = {name for name, step in self.steps.items() if step.optional}
        known = names | {key for dims in self.dimensions.values() for key in dims}
        unknown = [key for key in given if key not in known]
        if unknown:
            raise ValueError(f"there is no dimension {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
        point = {name: bool(given.get(name, True)) for name in names}
        for name, dims in self.dimensions.items():
            if point.get(name, True):
                point |= {key: _given(dim, key, given) if key in given else _middle(dim) for key, dim in dims.items()}
        return point

    def overrides(self, point: Mapping[str, Any], name: str) -> list[str]:
        """What makes the chain of ``point``, called ``name``, on the command line."""
        chain = ["method=chain", f"method.name={name}"]
        for step_name, step in self.steps.items():
            if not point.get(step_name, True):
                continue
            at = f"method.steps.{step_name}"
            chain.append(f"+method@{at}={step.method}")
            chain += [f"++{at}.{key}={spoken(value)}" for key, value in _leaves(step.set)]
            layers: dict[str, dict[str, Any]] = {}
            for key in self.dimensions[step_name]:
                setting, _, layer = key.removeprefix(f"{step_name}.").partition(":")
                if layer:
                    layers.setdefault(setting, {})[layer] = point[key]
                else:
                    chain.append(f"++{at}.{setting}={spoken(point[key])}")
            chain += [f"++{at}.{setting}={spoken(values)}" for setting, values in layers.items()]
        return chain

    def seeded(self, sensitivity: Mapping[str, Any], drop: float) -> Point:
        """A point whose layers are compressed as hard as each bears alone.

        Args:
            sensitivity: What ``python -m src.sensitivity`` wrote.
            drop: Validation accuracy that each layer may cost alone, a share.

        Raises:
            ValueError: The analysis is of another network, or has not tried what the space asks for.
        """
        given: Point = {}
        if not any(layer in sensitivity["layers"] for layer in self.layers):
            raise ValueError(f"it is of another network: it has none of the layers {', '.join(self.layers)}")
        for name, step in self.steps.items():
            each = dict(_each_layer(step.choose))
            for setting, dimension in each.items():
                bearable = {
                    layer: _bearable(sensitivity, layer, dimension.curve, drop)
                    for layer in self.layers
                    if layer in sensitivity["layers"]
                }
                values: Mapping[str, float] = bearable
                whole = f"{name}.sparsity"
                if dimension.curve == "sparsity" and whole in self.dimensions[name]:  # ratios of one sparsity
                    counts = {layer: sensitivity["layers"][layer]["parameters"] for layer in bearable}
                    given[whole] = sum(bearable[layer] * n for layer, n in counts.items()) / sum(counts.values())
                    values = {layer: value / max(given[whole], 1e-9) for layer, value in bearable.items()}
                given |= {f"{name}.{setting}:{layer}": value for layer, value in values.items()}
        return self.complete(given)


def spoken(value: Any) -> str:
    """A value as Hydra's command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{spoken(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(spoken(each) for each in value) + "]"
    return str(value)


def _check_ends(mildest: float, hardest: float, log: bool) -> None:
    for name, value in (("mildest", mildest), ("hardest", hardest)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} must be a number, and is {value}")
        if log and value <= 0:
            raise ValueError(f"{name} must be more than 0 where log is true, and is {value}")


def _divides(step: float, length: float) -> bool:
    return step > 0 and length != 0 and abs(length / step - round(length / step)) < 1e-9


def _flat(choose: Mapping[str, Any], at: str, layers: Sequence[str]) -> Iterator[tuple[str, Dimension]]:
    for key, value in choose.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{at}{key}.", layers)
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


def _given(dimension: Dimension, key: str, given: Mapping[str, Any]) -> Any:
    try:
        return dimension.within(given[key])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} must be a number, and is {given[key]!r}") from error


def _softer(dimension: Dimension, softened: float) -> Any:
    if softened and isinstance(dimension, (Number, Whole)):
        mildest = dimension.low if dimension.hardest == dimension.high else dimension.high
        return dimension.within(dimension.hardest + softened * (mildest - dimension.hardest))
    return dimension.hardest


def _middle(dimension: Dimension) -> Any:
    if isinstance(dimension, (Number, Whole)):
        low, high = dimension.low, dimension.high
        return dimension.within((low * high) ** 0.5 if dimension.log else (low + high) / 2)
    return dimension.hardest


def _bearable(sensitivity: Mapping[str, Any], layer: str, curve: str, drop: float) -> float:
    """The hardest value tried on a layer that costs at most ``drop``; the mildest where each costs more."""
    if curve not in sensitivity["layers"][layer]:
        raise ValueError(f"it has no {curve} of layer {layer}: python -m src.sensitivity tries them")
    accuracies = {float(value): accuracy for value, accuracy in sensitivity["layers"][layer][curve].items()}
    hardest_first = sorted(accuracies, reverse=curve == "sparsity")
    for value in hardest_first:
        if sensitivity["accuracy"] - accuracies[value] <= drop:
            return value
    return hardest_first[-1]
