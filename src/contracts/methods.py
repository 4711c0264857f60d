"""A compression method: what it is given, what it returns, and what it says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from src.contracts.training import FineTune, Loss

if TYPE_CHECKING:
    from torch import Tensor, nn

ModelBuilder = Callable[..., "nn.Module"]
NNCF_HOOKS = "__nncf_hooks"  # the submodule in which NNCF keeps masks, gates and quantizers


@dataclass(frozen=True)
class Context:
    """All that an algorithm may need beside the model.

    Attributes:
        calibration: Can be iterated again and again; yields ``(images [n, c, h, w] float32 normalized, labels [n])``
            of the calibration part.
        loss: The loss that the baseline was trained with.
        example_input: One normalized image, ``[1, c, h, w]``.
        seed: Seed of the method's random draws.
        fine_tune: Trains the model if the algorithm trains.
    """

    calibration: Iterable[tuple[Tensor, Tensor]]
    loss: Loss
    example_input: Tensor
    seed: int
    fine_tune: FineTune

    def __getstate__(self) -> dict[str, Any]:
        """What a callback takes along to another process of its training; that starts no training of its own."""
        return {**vars(self), "fine_tune": _fine_tune_nothing}


def _fine_tune_nothing(*arguments: Any, **settings: Any) -> None:
    raise RuntimeError("a callback of a training cannot start another training")


@dataclass(frozen=True)
class Claim:
    """What a step claims about a weight; it must hold for the tensor that the network's operators use for the weight.

    Attributes:
        sparsity: Least share of zeros, in [0, 1].
        values: Largest number of distinct values; None if nothing is claimed.
        channel_values: Largest number of distinct values of one output channel; None if nothing is claimed.
    """

    sparsity: float = 0.0
    values: int | None = None
    channel_values: int | None = None


@dataclass(frozen=True)
class Compressed:
    """What a method made.

    Attributes:
        model: The compressed network.
        structure: What ``Method.rebuild`` needs to give an untouched network the same structure, as JSON can hold it;
            None if the structure is that of the network before.
        claims: Claims about each weight that it changed, by parameter name; the experiment checks them.
        left_alone: Layers that it could not change, by name, each with the reason.
    """

    model: nn.Module
    structure: Mapping[str, Any] | None = None
    claims: Mapping[str, Claim] = field(default_factory=dict)
    left_alone: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Compressed | nn.Module) -> Compressed:
        """``result``; a bare module is taken as one whose structure did not change."""
        return result if isinstance(result, Compressed) else cls(result)


class Method(ABC):
    """A compression method: one file in ``src/methods``, one in ``conf/method``, one test.

    A method is a value: a frozen dataclass of its settings. ``compress`` returns all that it finds out.

    Attributes:
        makes: What later steps must keep: ``zeros``, ``shared values``.
        undoes: Which of these the method cannot keep, with the reason.
        ends_chain: Why no step can follow; None if one can.
    """

    makes: tuple[str, ...] = ()
    undoes: Mapping[str, str] = {}
    ends_chain: str | None = None

    @abstractmethod
    def compress(self, model: nn.Module, context: Context) -> Compressed | nn.Module:
        """Return the compressed network; ``model`` may be changed in place.

        Raises:
            NoEffectError: It would change nothing.
            ValueError: It cannot be done: everything would go, a layer's name matches nothing, …
        """

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Give an untouched ``model`` the recorded structure; the stored weights are loaded afterwards.

        So a stage that was found again is rebuilt from its record: the network is built anew, and each step's
        ``rebuild`` gives it its structure.
        """
        return model


@dataclass(frozen=True)
class StoredWeight:
    """What a file holds for a weight.

    Attributes:
        integers: int32, of the weight's shape.
        bits: Bits of each integer.
        scale, zero_point: float32 and int32, ``[]`` or one for each output channel, ``[out]``.
    """

    integers: Tensor
    bits: int
    scale: Tensor
    zero_point: Tensor

    def values(self) -> Tensor:
        """Dequantize: ``(integers - zero_point) * scale``, float32, of the weight's shape."""
        if not self.scale.dim():
            return (self.integers - self.zero_point) * self.scale
        each = (-1, *[1] * (self.integers.dim() - 1))
        return (self.integers - self.zero_point.view(each)) * self.scale.view(each)


@dataclass(frozen=True)
class Lowered:
    """A network as exporters take it.

    Attributes:
        model: The network in operators that every exporter knows.
        weights: Weights that the exporter is to store as integers, by parameter name; empty if operators for that are
            in the model.
        integer: Whether activations are integers, too, so that runtimes compute in integers.
        integers: What the operators in the model make of its weights, by parameter name; they count in the packed size.
    """

    model: nn.Module
    weights: Mapping[str, StoredWeight]
    integer: bool
    integers: Mapping[str, StoredWeight] = field(default_factory=dict)


class QuantizingMethod(Method):
    """A method whose weights are stored in fewer bits; it ends a chain."""

    @abstractmethod
    def lower(self, model: nn.Module, example_input: Tensor) -> Lowered:
        """A copy of ``model`` for the exporters; ``example_input`` is ``[1, c, h, w]``."""

    @abstractmethod
    def stored_weights(self, model: nn.Module) -> dict[str, StoredWeight]:
        """What a file holds for each quantized weight, by parameter name."""


class PlainMethod(Method):
    """A user's object that has ``compress(model, context)`` and is no ``Method``, as one.

    What it declares of itself is read once, here; if it has ``structure(model)`` and ``rebuild(model, structure)``,
    they are used as before ``Compressed`` came.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.makes = tuple(getattr(inner, "makes", ()))
        self.undoes = dict(getattr(inner, "undoes", {}))
        self.ends_chain = getattr(inner, "ends_chain", None)

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        made = self.inner.compress(model, context)
        if isinstance(made, Compressed) or not hasattr(self.inner, "structure"):
            return Compressed.of(made)
        return Compressed(made, self.inner.structure(made))

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        rebuilt: nn.Module = self.inner.rebuild(model, structure)
        return rebuilt


class PlainQuantizingMethod(PlainMethod, QuantizingMethod):
    """A user's object that also has ``lower`` and ``stored_weights``, as a quantizing method."""

    def lower(self, model: nn.Module, example_input: Tensor) -> Lowered:
        lowered: Lowered = self.inner.lower(model, example_input)
        return lowered

    def stored_weights(self, model: nn.Module) -> dict[str, StoredWeight]:
        stored: dict[str, StoredWeight] = self.inner.stored_weights(model)
        return stored


def as_method(candidate: Any) -> Method:
    """``candidate`` as a method.

    Raises:
        TypeError: It has no ``compress``.
    """
    if isinstance(candidate, Method):
        return candidate
    if not callable(getattr(candidate, "compress", None)):
        raise TypeError(f"a {type(candidate).__name__}, which has no compress(model, context)")
    quantizes = hasattr(candidate, "lower") and hasattr(candidate, "stored_weights")
    return PlainQuantizingMethod(candidate) if quantizes else PlainMethod(candidate)
