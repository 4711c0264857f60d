"""The target packed: a file of coded weights and the graph as data, run by ONNX Runtime after it was unpacked."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from src.contracts import Graph, InputError, ModelCard, Precision, Runtime, Session, StoredWeight, Target
from src.deploy import cards
from src.deploy.onnxruntime import CPU, OnnxRuntime
from src.files.writing import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

ONNX = OnnxRuntime(provider=CPU, stored="float32")
PROFILES = ("fast", "board", "small", "huffman")


class PackedFile(Target):
    """Writes ``.dnnc``; every measurement unpacks that file and runs its graph in ONNX Runtime.

    Args:
        profile: ``fast``, ``board`` (for the board's reader), ``small`` (smallest and slowest) or ``huffman``
            (Deep Compression's coding).
        exact: ``bits``: every stored tensor comes back to the bit; ``outputs``: hidden units may come back in another
            order, and logits are equal to float rounding.
    """

    ending = "dnnc"

    def __init__(self, *, profile: str, exact: str) -> None:
        if profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, and is {profile}")
        if exact not in ("bits", "outputs"):
            raise ValueError(f"exact must be bits or outputs, and is {exact}")
        self.profile, self.exact = profile, exact

    @property
    def runtime(self) -> Runtime:
        return Runtime("onnxruntime")

    def precision(self, integer: bool) -> Precision:
        return ONNX.precision(integer)

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        container, from_onnx = _coders()
        with tempfile.TemporaryDirectory() as folder:
            onnx = Path(folder) / "model.onnx"
            ONNX.export(model, example_input, onnx, card, weights)
            tensors, graph, text = from_onnx(onnx)
        write_bytes(path, container.pack(tensors, self.profile, card=text, graph=graph, exact=self.exact))
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Unpack the file and load its graph; raise InputError if it is no packed file or has no graph."""
        with unpacked(path) as onnx:
            return ONNX.load(onnx, threads)

    def graph(self, path: Path) -> Graph:
        with unpacked(path) as onnx:
            return ONNX.graph(onnx)

    def read_card(self, path: Path) -> ModelCard:
        from src.device.packed_graph import card_of

        container, _ = _coders()
        fields = {key: json.dumps(value) for key, value in card_of(container.read(path)).items()}
        return cards.from_text(fields, path)

    def opset(self, path: Path) -> int | None:
        with unpacked(path) as onnx:
            return ONNX.opset(onnx)

    def operators(self, path: Path, image: np.ndarray, threads: int) -> list[tuple[str, str, float]]:
        with unpacked(path) as onnx:
            return ONNX.operators(onnx, image, threads)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A packed file as an ONNX file, which is removed after the block.

    Raises:
        InputError: It is no packed file, is damaged, has no graph, or numba is not installed.
    """
    from src.device.packed_graph import onnx_bytes
    from src.device.packed_streams import PackedError

    container, _ = _coders()
    try:
        content = onnx_bytes(container.read(path))
    except PackedError as error:
        raise InputError(f"{path}: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / f"{path.stem}.onnx"
        onnx.write_bytes(content)
        yield onnx


def _coders():  # type: ignore[no-untyped-def]
    """The coders, which numba compiles."""
    try:
        from src.coding import container
        from src.coding.graph import from_onnx
    except ModuleNotFoundError as error:
        raise InputError(
            f"target.packed needs {error.name}, which is not installed: pip install {error.name}"
        ) from error
    return container, from_onnx
