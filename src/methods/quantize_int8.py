"""INT8 quantization by NNCF, after training or during training, with batch normalization folded first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from src.contracts import Compressed, Context, Lowered, NoEffectError, QuantizingMethod, Recipe, StoredWeight
from src.methods import _nncf_quantizers as nncf
from src.primitives.attention import unfuse_attention
from src.primitives.bias_grids import rounded_biases
from src.primitives.folding import fold, fold_batch_norm
from src.primitives.keeping import shared_values
from src.primitives.layers import weight_names, without
from src.primitives.operands import operator_weights

NOT_PLACED = "no quantizer can be placed on its weight, which stays in floats"


@dataclass(frozen=True, kw_only=True)
class QuantizeInt8(QuantizingMethod):
    """Quantize weights (symmetric, per output channel) and activations (symmetric, per tensor) to 8 bits.

    Batch normalization is folded into the layers before it: otherwise runtimes do not fuse it, and the INT8 file is
    slower than the float one. Biases are rounded as integer kernels hold them. Zeros stay zeros, since scales are
    symmetric. If a layer's weights share values, each tensor has one scale, so that they still share values. The result
    is no plain float network, so no step can follow.

    Attributes:
        bias_correction: Let NNCF correct biases for the mean error on calibration images. On the networks measured it
            made the logits differ more (docs/methods/quantize_int8.md).
        ignored: Patterns of weight names whose layers stay floats.
        fine_tune: How the network is trained under quantization (QAT); None calibrates only.
        reduce_range: Keep weights in -64 … 64: sums of two products then fit 16 bits, in which x86 processors without
            VNNI add them. It costs one bit of the weights.

    Paper: Nagel et al. 2021, arXiv:2106.08295, sections 2.3, 3 and 4.
    """

    bias_correction: bool
    ignored: Sequence[str]
    fine_tune: Recipe | None
    reduce_range: bool

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
        folded = fold_batch_norm(unfuse_attention(model), context.example_input)
        used = {*weight_names(model), *operator_weights(model, context.example_input)}
        names = [name for name, _ in model.named_parameters() if name in used]
        wanted = without(names, self.ignored) if self.ignored else names
        if not wanted:
            none = (
                "the network has no convolution and no dense layer" if not names else "method.ignored names every layer"
            )
            raise NoEffectError(f"{none}: nothing was quantized")
        quantized = nncf.quantize(
            model,
            images,
            bias_correction=self.bias_correction,
            per_channel=all(shared_values(model.get_parameter(name)) is None for name in names),
            reduce_range=self.reduce_range,
            ignored=sorted(set(names) - set(wanted)),
        )
        weights = nncf.mark_weights(quantized, context.example_input)
        left_alone = dict.fromkeys((name for name in wanted if name not in weights.values()), NOT_PLACED)
        if not nncf.config_of(quantized)["compression_state"] or len(left_alone) == len(wanted):
            raise NoEffectError("no quantizer can be placed on a weight of the network: nothing was quantized")
        if self.fine_tune is not None:
            context.fine_tune(quantized, self.fine_tune)
        for name, bias in rounded_biases(nncf.lower(quantized), context.example_input).items():
            quantized.get_parameter(name).data.copy_(bias)
        structure = {
            "folded": [list(pair) for pair in folded],
            "nncf": nncf.config_of(quantized),
            "weights": weights,
            "outputs": nncf.output_quantizers(quantized),
        }
        return Compressed(quantized.eval(), structure, left_alone=left_alone)

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Fold batch normalization and place quantizers as recorded."""
        folded = fold(unfuse_attention(model.eval()), structure["folded"])
        return nncf.restore(folded, structure["nncf"], structure["weights"], structure["outputs"]).eval()

    def lower(self, model: nn.Module, example_input: Tensor) -> Lowered:
        """Copy ``model`` with torch's fake-quantize operators in place of NNCF's."""
        return Lowered(nncf.lower(model), {}, integer=True, integers=self.stored_weights(model))

    def stored_weights(self, model: nn.Module) -> dict[str, StoredWeight]:
        """The 8-bit integers of each quantized weight, by parameter name."""
        return nncf.integer_weights(model)
