"""ONNX files, float and INT8, as they are written."""

from __future__ import annotations

import logging
import os
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
    """Write ``model`` to ``path``, batch size free, its card in the file's metadata.

    Args:
        model: In eval mode; quantizers are torch's fake-quantize operators.
        example_input: ``[1, c, h, w]``.
        path: Written whole or not at all.
        weights: To be stored as integers behind a DequantizeLinear, by parameter name.
        integer_biases: Write what ONNX Runtime needs to fuse a whole quantized network on a CPU; False leaves it as
            the quantizers were placed.
        finish: Changes the graph in place before it is written.

    Raises:
        InputError: The network has an operation that ONNX lacks, or ``finish`` refuses it.
    """
    import torch

    part = path.with_name(path.name + ".part")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model.eval(),
                (example_input,),
                str(part),
                opset_version=OPSET,
                dynamo=False,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )
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
        os.replace(part, path)
    except torch.onnx.errors.OnnxExporterError as error:
        raise InputError(f"the network cannot be written as an ONNX file: {first_line(error)}") from error
    finally:
        part.unlink(missing_ok=True)
    logging.getLogger(__name__).info("wrote %s", path)
