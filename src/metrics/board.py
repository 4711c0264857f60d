"""Whether a file fits the board that is to run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.contracts import NotExportableError, Target
from src.metrics.graph import largest_layer, peak_activation, weight_bytes
from src.metrics.size import size_bytes


@dataclass(frozen=True, kw_only=True)
class Board:
    """The limits of a board; None sets none.

    Attributes:
        name: Of the board.
        memory_bytes: What a model may take while it runs.
        weights_in_memory: Whether stored weights take of it, too; else they are read where they are stored.
        storage_bytes: What its file may take.
        runtimes: That it has.
        arithmetic: What its units compute in: ``float32``, ``float16``, ``int8``, …
    """

    name: str
    memory_bytes: int | None
    weights_in_memory: bool
    storage_bytes: int | None
    runtimes: Sequence[str] | None
    arithmetic: Sequence[str] | None

    def check(self, target: Target, parts: Sequence[Path]) -> None:
        """Raise NotExportableError where the file cannot run there, naming what needs most.

        Args:
            target: That wrote it.
            parts: Of the file.
        """
        runtime = _runtime(target)
        if self.runtimes is not None and runtime not in self.runtimes:
            raise NotExportableError(f"board {self.name} runs {', '.join(self.runtimes)}, and not {runtime}")
        stored = size_bytes(parts)
        if self.memory_bytes is None and (self.storage_bytes is None or stored <= self.storage_bytes):
            return
        graph = target.graph(parts[0])
        weights, (layer, taken) = weight_bytes(graph), largest_layer(graph)
        most = f"{layer} needs most, {taken:,} bytes"
        if self.storage_bytes is not None and stored > self.storage_bytes:
            raise NotExportableError(
                f"The file for {runtime} does not fit board {self.name}: {stored:,} bytes, and it can store "
                f"{self.storage_bytes:,}; {most}"
            )
        if self.memory_bytes is None:
            return
        activations, at = peak_activation(graph)
        needed = activations + (weights if self.weights_in_memory else 0)
        if needed > self.memory_bytes:
            where = f"{at} needs most, {activations:,} bytes"
            raise NotExportableError(
                f"The model for {runtime} does not fit board {self.name}: it needs {needed:,} bytes of memory of "
                f"{self.memory_bytes:,}; {most if self.weights_in_memory and weights > activations else where}"
            )

    def remarks(self, precision: str) -> list[str]:
        """What a user could expect in vain there of a file whose row has this ``precision``."""
        if self.arithmetic is None or not precision.startswith("int8") or "int8" in self.arithmetic:
            return []
        return [
            f"Board {self.name} has no unit for int8 ({', '.join(self.arithmetic)}): INT8 makes nothing faster there; "
            "float16 and removed channels do."
        ]


def _runtime(target: Target) -> str:
    """What is to run the file in the end."""
    return target.runtime.rpartition(" for ")[2].partition(" with ")[0]
