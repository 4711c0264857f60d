"""Quantizers of outputs that some runtimes need for their integer kernels and others do not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def without_output_quantizers(model: nn.Module, kinds: Collection[str]) -> Iterator[None]:
    """Let a lowered network skip, within the block, the quantizers whose ``output_of`` is one of ``kinds``.

    Args:
        model: The network; ``output_of`` says whose output a quantizer is for if the network computes the same without
            it: that of a ``convolution`` or of a ``product``.
        kinds: Those that the runtime does not need, because it fuses what comes after the operator.
    """
    skipped = [module for module in model.modules() if getattr(module, "output_of", None) in kinds]
    for module in skipped:
        module.skipped = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in skipped:
            module.skipped = False  # type: ignore[assignment]
