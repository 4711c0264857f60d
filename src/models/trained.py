"""Networks with weights from a file, e.g. teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from src.contracts import ModelBuilder
from src.models.build import NetworkSource, assembled
from src.models.weights import Weights


class Trained:
    """Builds a network and loads its weights.

    Args:
        model: A builder whose other arguments are bound (``_partial_: true``).
        weights: File of its weights, e.g. ``artifacts/<identity>/weights.safetensors`` of a baseline.

    Raises:
        ValueError: There is no such file.
    """

    def __init__(self, *, model: ModelBuilder, weights: str) -> None:
        self.source = NetworkSource(model, weights=Weights(Path(weights).expanduser()))
        if not Path(weights).expanduser().is_file():
            raise ValueError(f"weights: there is no file {weights}")

    def __call__(self, **known: Any) -> nn.Module:
        """Build the network for ``num_classes``, ``in_channels`` and ``image_size``, in eval mode.

        Raises:
            InputError: The builder refuses its arguments, or the weights do not fit the network.
        """
        return assembled(self.source, **known).eval()
