"""Writing ONNX files, float and INT8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from src.contracts import InputError, ModelCard, StoredWeight, first_line
from src.deploy import cards
from src.deploy.onnx_fusing import fuse
from src.deploy.onnx_integers import dequantize_stored_weights, shorten_names, store_integer_weights
from src.files.writing import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

# Opset 13 has QuantizeLinear per channel and is what a Jetson Nano's onnxruntime 1.10 and TensorRT 8.2 read.
OPSET = 13


def export_onnx(
    model: nn.Module,
    example_input: Tensor,
    path: Path,
    card: ModelCard,
    weights: Mapping[str, StoredWeight],
    *,
    integer_biases: bool = True,
    finish: Callable[[onnx.ModelProto], None] | None = None,
) -> None:
    """Write ``model`` to ``path`` with a free batch size and its card in the file's metadata.

    Args:
        model: Network in eval mode; its quantizers are torch's fake-quantize operators.
        example_input: One image, ``[1, c, h, w]``.
        path: The file; it is written whole or not at all.
        weights: Weights to be stored as integers behind a DequantizeLinear, by parameter name.
        integer_biases: Whether the graph is rewritten so that ONNX Runtime fuses a quantized network on a CPU; if not,
            its quantizers stay as they were placed.
        finish: Changes the graph in place before it is written.

    Raises:
        InputError: The network has an operation that ONNX lacks, or ``finish`` refuses the graph.
    """
    import torch

    try:
        with replacing(path) as part:
            _convert(model, example_input, part)
            written = onnx.load(str(part))
            store_integer_weights(written)
            dequantize_stored_weights(written, weights)
            if integer_biases:
                fuse(written)
            if finish is not None:
                finish(written)
            shorten_names(written)
            helper.set_model_props(written, cards.to_text(card))
            onnx.checker.check_model(written)
            onnx.save(written, str(part))
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(f"the network cannot be written as an ONNX file: {first_line(error)}") from error
    logging.getLogger(__name__).info("wrote %s", path)


def _convert(model: nn.Module, example_input: Tensor, path: Path) -> None:
    """Write what torch's exporter makes of the network."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (example_input,),
            str(path),
            opset_version=OPSET,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
