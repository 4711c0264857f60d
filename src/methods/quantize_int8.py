"""INT8 quantization by NNCF, after training or during training, with batch normalization folded first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from src.contracts import Compressed, Context, Lowered, NoEffectError, QuantizingMethod, Recipe, StoredWeight
from src.methods import _nncf
from src.primitives.folding import fold, fold_batch_norm
from src.primitives.keeping import shared_values
from src.primitives.layers import layer_name, weight_names, without


@dataclass(frozen=True, kw_only=True)
class QuantizeInt8(QuantizingMethod):
    """Quantize weights (symmetric, per output channel) and activations (symmetric, per tensor) to 8 bits.

    Batch normalization is folded into the layers before it: otherwise runtimes do not fuse it, and the INT8 file is
    slower than the float one. Zeros stay zeros, since scales are symmetric. If a layer's weights share values, each
    tensor has one scale, so that they still share values. The result is no plain float network, so no step can follow.

    Attributes:
        bias_correction: Let NNCF correct biases for the mean error on calibration images. On the networks measured it
            made the logits differ more (docs/methods/quantize_int8.md).
        ignored: Patterns of weight names whose layers stay floats.
        fine_tune: How the network is trained under quantization (QAT); None calibrates only.

    Paper: Nagel et al. 2021, arXiv:2106.08295, sections 2.3, 3 and 4.
    """

    bias_correction: bool
    ignored: Sequence[str]
    fine_tune: Recipe | None

    ends_chain = "its result has integer weights, which no further step can change"

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        """Quantize ``model`` in place.

        Raises:
            NoEffectError: The network has no layer that can be quantized.
            ValueError: There are no calibration images, or a pattern matches nothing.
        """
        model.eval()
        images = [batch for batch, _ in context.calibration]
        if not images:
            raise ValueError("there is no calibration image: data.calibration_images must be at least 1")
        names = weight_names(model)
        floats = set(names) - set(without(names, self.ignored)) if self.ignored else set()
        folded = fold_batch_norm(model, context.example_input)
        quantized = _nncf.quantize(
            model,
            images,
            bias_correction=self.bias_correction,
            per_channel=all(shared_values(model.get_parameter(name)) is None for name in names),
            ignored=[layer_name(name) for name in sorted(floats)],
        )
        if not _nncf.config_of(quantized)["compression_state"]:
            raise NoEffectError("the network has no convolution and no dense layer: nothing was quantized")
        if self.fine_tune is not None:
            with _nncf.on_device(quantized):
                context.fine_tune(quantized, self.fine_tune)
        structure = {"folded": [list(pair) for pair in folded], "nncf": _nncf.config_of(quantized)}
        return Compressed(quantized.eval(), structure)

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Fold batch normalization and place quantizers as recorded."""
        return _nncf.restore(fold(model.eval(), structure["folded"]), structure["nncf"]).eval()

    def lower(self, model: nn.Module, example_input: Tensor) -> Lowered:
        """Copy ``model`` with torch's fake-quantize operators in place of NNCF's."""
        return Lowered(_nncf.lower(model, example_input), {}, integer=True, integers=self.stored_weights(model))

    def stored_weights(self, model: nn.Module) -> dict[str, StoredWeight]:
        """The 8-bit integers of each quantized weight, by parameter name."""
        return _nncf.integer_weights(model)
