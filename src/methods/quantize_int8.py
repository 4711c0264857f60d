"""INT8 quantization by NNCF, after training or aware of it, batch normalization folded first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from src.contracts import Context, Lowered, NoEffectError, StoredWeight
from src.methods import _nncf
from src.primitives.folding import fold, fold_batch_norm
from src.primitives.keeping import shared_values
from src.primitives.layers import weight_names, without


class QuantizeInt8:
    """Quantize weights (symmetric, per output channel) and activations (symmetric, per tensor) to 8 bits.

    Batch normalization is folded into the layers before it: left in, it is not fused, and the INT8 file is slower than
    the float one. Zeros stay zeros, since scales are symmetric. Where a layer's weights share values, each tensor has
    one scale, so that they go on sharing. Ends a chain: what comes out is no plain float network.

    Args:
        bias_correction: Let NNCF correct biases for the mean error on calibration images. Where it was measured it made
            the logits differ more (docs/methods.md).
        ignored: Patterns of weight names whose layers stay floats.
        fine_tune: How the network is trained under quantization (QAT); None calibrates only.

    Paper: Nagel et al. 2021, arXiv:2106.08295, sections 2.3, 3 and 4.
    """

    ends_chain = "its result has integer weights, which no further step can change"

    def __init__(self, *, bias_correction: bool, ignored: Sequence[str], fine_tune: Any) -> None:
        self.bias_correction, self.ignored, self.fine_tune = bias_correction, list(ignored), fine_tune
        self._folded: list[tuple[str, str]] = []

    def compress(self, model: nn.Module, context: Context) -> nn.Module:
        """Quantize ``model``; raises ValueError without calibration images, NoEffectError without a layer for it."""
        model.eval()
        images = [batch for batch, _ in context.calibration]
        if not images:
            raise ValueError("there is no calibration image: data.calibration_images must be at least 1")
        names = weight_names(model)
        floats = set(names) - set(without(names, self.ignored)) if self.ignored else set()
        self._folded = fold_batch_norm(model, context.example_input)
        quantized = _nncf.quantize(
            model,
            images,
            bias_correction=self.bias_correction,
            per_channel=all(shared_values(model.get_parameter(name)) is None for name in names),
            ignored=[name.rpartition(".")[0] for name in sorted(floats)],
        )
        if not _nncf.config_of(quantized)["compression_state"]:
            raise NoEffectError("the network has no convolution and no dense layer: nothing was quantized")
        if self.fine_tune is not None:
            context.fine_tune(quantized, self.fine_tune)
        return quantized.eval()

    def structure(self, model: nn.Module) -> dict[str, Any]:
        """The folded pairs and where the quantizers sit."""
        return {"folded": [list(pair) for pair in self._folded], "nncf": _nncf.config_of(model)}

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Fold and hook as recorded."""
        self._folded = [(layer, norm) for layer, norm in structure["folded"]]
        return _nncf.restore(fold(model.eval(), self._folded), structure["nncf"]).eval()

    def lower(self, model: nn.Module, example_input: Tensor) -> Lowered:
        """A copy with torch's fake-quantize operators in place of NNCF's."""
        return Lowered(_nncf.lower(model, example_input), {}, integer=True)

    def stored_weights(self, model: nn.Module) -> dict[str, StoredWeight]:
        """The 8-bit integers of each quantized weight."""
        return _nncf.integer_weights(model)
