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
from src.deploy.onnx_shapes import fold_shapes
from src.files.writing import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)
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
        InputError: The network has an operation that ONNX lacks or that is none of its own, or ``finish`` refuses the
            graph.
    """
    import torch

    try:
        with replacing(path) as part:
            _convert(model, example_input, part)
            written = onnx.load(str(part))
            refuse_foreign(written)
            fold_shapes(written)
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
    log.info("wrote %s", path)


def refuse_foreign(model: onnx.ModelProto) -> None:
    """Raise InputError if an operator is none of ONNX's: only the runtime that defines it could load the file."""
    foreign = [node for node in model.graph.node if node.domain not in ("", "ai.onnx")]
    if foreign:
        node = foreign[0]
        layer = node.name.strip("/").rpartition("/")[0].replace("/", ".") or "at the root"
        raise InputError(
            f"the network cannot be written as an ONNX file: the operator {node.domain}::{node.op_type} of the layer "
            f"{layer} is none of ONNX's"
        )


def opset_of(path: Path) -> int:
    """The opset of the operators of ONNX itself in a file."""
    model = onnx.load(str(path), load_external_data=False)
    return max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)


def newer_opset(path: Path) -> list[str]:
    """A line that says the file's opset if it is not the usual one; none if it is."""
    opset = opset_of(path)
    if opset <= OPSET:
        return []
    return [f"the network needs ONNX opset {opset}: a runtime that reads no newer one than {OPSET} refuses the file"]


def _convert(model: nn.Module, example_input: Tensor, path: Path) -> None:
    """Write what torch's exporter makes of the network, in the oldest opset from 13 on that has its operators."""
    import torch
    from torch.onnx._constants import ONNX_TORCHSCRIPT_EXPORTER_MAX_OPSET as NEWEST

    from src.deploy.free_batch import traceable

    for opset in range(OPSET, NEWEST + 1):
        try:
            traced = _trace(model, example_input, path, opset)
            break
        except torch.onnx.errors.UnsupportedOperatorError:
            if opset == NEWEST:
                raise
    if traced or _takes_any_batch(model, example_input, path):
        return
    symbolic = traceable(model, example_input)
    if symbolic is not None:
        _trace(symbolic, example_input, path, opset)


def _trace(model: nn.Module, example_input: Tensor, path: Path, opset: int) -> bool:
    """Write the file; return whether no Python code took a number out of a tensor, its shape included."""
    import torch

    from src.deploy.pooling import FixedWindows

    with warnings.catch_warnings(record=True) as caught, FixedWindows():
        warnings.simplefilter("always")
        torch.onnx.export(
            model.eval(),
            (example_input,),
            str(path),
            opset_version=opset,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    return not any(each.category.__name__ == "TracerWarning" for each in caught)


def _takes_any_batch(model: nn.Module, example_input: Tensor, path: Path) -> bool:
    """Whether the file gives for two images what the network does: a number of images in Python is a constant in it."""
    import torch

    from src.deploy.onnxruntime import CPU, run_with, session

    batch = torch.cat([example_input, example_input.flip(-1)])
    try:
        found = torch.from_numpy(run_with(session(path, 1, [CPU], optimize=False))(batch.numpy()))
    except Exception:  # ONNX Runtime's exceptions have no common public base class
        return False
    with torch.no_grad():
        expected = model(batch)
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-2, atol=1e-3)
