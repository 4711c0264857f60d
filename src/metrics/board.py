"""Boards and their limits: whether a file fits the board that is to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.contracts import NotExportableError, Precision, Target
from src.metrics.graph import largest_layer, peak_activation, weight_bytes
from src.metrics.size import size_bytes


@dataclass(frozen=True, kw_only=True)
class Board:
    """The limits of a board; None sets no limit.

    Attributes:
        name: Name of the board.
        memory_bytes: Memory that a model may take while it runs.
        weights_in_memory: Whether stored weights take part of that memory; if not, they are read from the storage.
        storage_bytes: Bytes that the file may take.
        runtimes: Runtimes that the board has.
        arithmetic: Number formats that its units compute in: ``float32``, ``float16``, ``int8``, …
        opsets: Newest ONNX opset that each of its runtimes reads; one that is not named reads any.
    """

    name: str
    memory_bytes: int | None
    weights_in_memory: bool
    storage_bytes: int | None
    runtimes: Sequence[str] | None
    arithmetic: Sequence[str] | None
    opsets: Mapping[str, int] | None = None

    def check(self, target: Target, parts: Sequence[Path]) -> None:
        """Raise NotExportableError if the board cannot run the file; the message names what needs most.

        Args:
            target: Target that wrote the file.
            parts: All parts of the file.
        """
        runtime = target.runtime.intended
        if self.runtimes is not None and runtime not in self.runtimes:
            raise NotExportableError(f"board {self.name} runs {', '.join(self.runtimes)}, and not {runtime}")
        newest, needed = (self.opsets or {}).get(runtime), target.opset(parts[0])
        if newest is not None and needed is not None and needed > newest:
            raise NotExportableError(
                f"board {self.name}: the network needs ONNX opset {needed}, and its {runtime} reads up to {newest}"
            )
        stored = size_bytes(parts)
        too_large = self.storage_bytes is not None and stored > self.storage_bytes
        if self.memory_bytes is None and not too_large:
            return
        graph = target.graph(parts[0])
        layer, layer_bytes = largest_layer(graph)
        largest = f"{layer} needs most, {layer_bytes:,} bytes"
        if too_large:
            raise NotExportableError(
                f"The file for {runtime} does not fit board {self.name}: {stored:,} bytes, and it can store "
                f"{self.storage_bytes:,}; {largest}"
            )
        if self.memory_bytes is None:
            return
        weights = weight_bytes(graph) if self.weights_in_memory else 0
        activations, operation = peak_activation(graph)
        if activations + weights > self.memory_bytes:
            peak = f"{operation} needs most, {activations:,} bytes"
            raise NotExportableError(
                f"The model for {runtime} does not fit board {self.name}: it needs {activations + weights:,} bytes of "
                f"memory of {self.memory_bytes:,}; {largest if weights > activations else peak}"
            )

    def remarks(self, precision: Precision) -> list[str]:
        """Speed-ups that this board cannot deliver for a file of this precision, a line each."""
        if self.arithmetic is None or not precision.integer or "int8" in self.arithmetic:
            return []
        return [
            f"Board {self.name} has no unit for int8 ({', '.join(self.arithmetic)}): INT8 makes nothing faster there; "
            "float16 and removed channels do."
        ]
