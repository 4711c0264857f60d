"""An exported file: where it is to run, what it says of itself, and its graph as measuring sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from src.contracts.data import STRETCHED, Preparation
from src.contracts.methods import StoredWeight

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


@dataclass(frozen=True)
class ModelCard:
    """What a file must say of itself so that it can be used without this project.

    Attributes:
        classes: Label names in output order.
        image_shape: ``(channels, height, width)``.
        mean, std: One number for each channel, of pixels scaled to [0, 1].
        identity: Identity of the stage that was exported.
        preparation: How the file of an image becomes pixels of that shape.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    identity: str
    preparation: Preparation = STRETCHED


@dataclass(frozen=True)
class Precision:
    """What a file's runtime computes in, and what else the file stores.

    Attributes:
        computes: Number formats of the arithmetic, e.g. ``("float32",)``, ``("int8",)``, ``("int8", "bf16")``.
        stores: Number formats of the weights if they are others, e.g. ``("float16",)``; empty if they are the same.
    """

    computes: tuple[str, ...]
    stores: tuple[str, ...] = ()

    @property
    def integer(self) -> bool:
        """Whether the file computes in integers."""
        return "int8" in self.computes

    @property
    def floats(self) -> str:
        """What is computed in if not in integers: ``float32``, ``float16`` or ``bf16``."""
        return next((name for name in self.computes if name != "int8"), "float32")

    def __str__(self) -> str:
        stored = f", {' and '.join(self.stores)} stored" if self.stores else ""
        return " and ".join(self.computes) + stored

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Precision:
        """From its fields as JSON holds them."""
        return cls(tuple(record["computes"]), tuple(record["stores"]))


@dataclass(frozen=True)
class Runtime:
    """What runs a file.

    Attributes:
        name: ``onnxruntime``, ``openvino``, ``tflite``, ``torch``, ``tensorrt``.
        provider: The execution provider if it is not the default one.
        stands_in_for: The runtime that the file is for, if ``name`` only runs it in its place here.
    """

    name: str
    provider: str | None = None
    stands_in_for: str | None = None

    @property
    def intended(self) -> str:
        """Name of the runtime that is to run the file in the end."""
        return self.stands_in_for or self.name

    def __str__(self) -> str:
        if self.stands_in_for is not None:
            return f"{self.name} for {self.stands_in_for}"
        return self.name if self.provider is None else f"{self.name} with {self.provider}"

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Runtime:
        """From its fields as JSON holds them."""
        return cls(record["name"], record["provider"], record["stands_in_for"])


@dataclass(frozen=True)
class GraphTensor:
    """A tensor of an exported graph.

    Attributes:
        elements: Number of elements at batch 1.
        size_bytes: Bytes of them.
        nonzero: Number of elements that are not zero, if the file stores the tensor; else None.
    """

    elements: int
    size_bytes: int
    nonzero: int | None = None


class Role(Enum):
    """What an operation does to memory when a runtime executes it."""

    COMPUTE = "writes new memory"
    IN_PLACE = "element-wise: overwrites an input that nobody reads later"
    MOVING = "reshapes or copies nothing"
    POOLING = "writes new memory, of its input's type"
    QUANTIZE = "turns floats into integers, fused into the operation before it"
    DEQUANTIZE = "turns integers into floats, fused into the operation after it"


@dataclass(frozen=True)
class GraphNode:
    """An operation of an exported graph.

    Attributes:
        inputs, outputs: Names of tensors.
        role: What it does to memory.
        macs: Multiply-accumulate operations at batch 1; None if it has weights and is of an unknown kind.
        name: As the file calls the operation, after its layer.
        float_kernel: Whether the runtime is known to compute it in floats, even if its inputs are integers.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    role: Role
    macs: int | None = 0
    name: str = ""
    float_kernel: bool = False


@dataclass(frozen=True)
class Graph:
    """An exported file as measuring sees it.

    Attributes:
        nodes: Operations in the order of the file.
        tensors: Tensors by name; stored ones have ``nonzero``.
        weights: Names of the stored tensors that are parameters (scales and shapes are not).
        inputs, outputs: Names of what goes in and comes out.
    """

    nodes: tuple[GraphNode, ...]
    tensors: Mapping[str, GraphTensor]
    weights: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Session(Protocol):
    """An exported file, loaded in its runtime."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits ``[n, classes]`` of ``images [n, c, h, w]``, float32, normalized."""
        ...


class Target(ABC):
    """Where a model is to run: how its file is written, loaded and looked into.

    Attributes:
        ending: Ending of its files, without a dot.
        beside: Endings of what it writes beside a file and under its name.
        extra: The extra of ``pyproject.toml`` that installs its runtime; None if that is always installed.
        free_batch: Whether a file takes any number of images at once; if not, its session takes them one by one.
        stand_in: Whether another runtime runs the file here, whose times say nothing of the target.
    """

    ending: str
    beside: tuple[str, ...] = ()
    extra: str | None = None
    free_batch: bool = True

    @property
    def unquantized_outputs(self) -> tuple[str, ...]:
        """Operators, ``convolution`` and ``product``, for whose outputs its integer kernels need no scale.

        Quantizers that stand there for other runtimes alone are left out of its files.
        """
        return ()

    @property
    def stand_in(self) -> bool:
        return self.runtime.stands_in_for is not None

    @property
    @abstractmethod
    def runtime(self) -> Runtime:
        """What runs the files here."""

    @abstractmethod
    def precision(self, integer: bool) -> Precision:
        """What a file computes in and stores; ``integer`` says whether the network computes in integers."""

    @abstractmethod
    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        """Write ``model`` to ``path``; return every part of the file, ``path`` first.

        ``weights`` are those to be stored as integers, by parameter name, as far as the format can.
        """

    @abstractmethod
    def load(self, path: Path, threads: int = 1) -> Session:
        """Load the file as written, for so many threads."""

    @abstractmethod
    def graph(self, path: Path) -> Graph:
        """Read the file's operations and tensors."""

    @abstractmethod
    def read_card(self, path: Path) -> ModelCard:
        """Read what the file says of itself."""

    def opset(self, path: Path) -> int | None:
        """The ONNX opset that the file is written in; None if it is no ONNX file."""
        return None

    def operators(self, path: Path, image: np.ndarray, threads: int) -> list[tuple[str, str, float]] | None:
        """``[(name, kind, median ms)]`` by the runtime's own profiler; None if it has none here."""
        return None

    def remarks(self, path: Path) -> list[str]:
        """Lines on what the file will not be good at."""
        return []
