"""The target TFLite: files converted by litert-torch, run by LiteRT's interpreter with XNNPACK."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.contracts import Graph, InputError, ModelCard, Precision, Runtime, Session, StoredWeight, Target, first_line
from src.deploy import cards, tflite_file
from src.deploy.number_formats import checked_storage, halves
from src.device.runtimes import dequantized, quantized
from src.device.schema import read_json
from src.files.writing import write_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

MISSING = "the target tflite needs the extra tflite: pip install '.[tflite]'"


class TfLite(Target):
    """Writes ``.tflite``; inside, channels are the last dimension, and inputs and outputs are floats.

    An INT8 network runs in integer kernels with its own scales from the image, which the file quantizes, to the logits,
    which it dequantizes. A dense layer without a scale for its output has int8 weights and gives floats; the runtime
    then quantizes its input by the range of each image.

    Args:
        stored: Number format of float weights in the file, ``float32`` or ``float16``; arithmetic is in float32.
        dynamic_batch: Whether the file takes any number of images at once; if not, it takes them one by one.
    """

    ending = "tflite"
    extra = "tflite"
    runtime = Runtime("tflite")

    def __init__(self, *, stored: str, dynamic_batch: bool) -> None:
        self.stored, self.free_batch = checked_storage(stored), dynamic_batch

    def precision(self, integer: bool) -> Precision:
        return Precision(("int8" if integer else "float32",), halves(self.stored))

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        """Write the file; raise InputError if an operator has no counterpart in the format."""
        from src.deploy.quantized_program import with_operators

        quantizing, integers = with_operators(model, example_input)
        file = tflite_file.parsed(_convert(quantizing, example_input, bool(integers)))
        tflite_file.take_floats(file)
        tflite_file.free_scales(file)
        tflite_file.store_integers(file, weights, dynamic=False)
        tflite_file.store_integers(file, integers, dynamic=True)
        if self.stored == "float16":
            tflite_file.store_halves(file)
        tflite_file.drop_transposes(file)
        tflite_file.drop_unused(file)
        if self.free_batch:
            tflite_file.free_batch(file)
        tflite_file.shorten_names(file)
        tflite_file.add_metadata(file, json.dumps(cards.to_text(card)).encode())
        write_bytes(path, tflite_file.packed(file))
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Load the file; raise InputError if it is no TFLite file.

        The session takes and gives floats, also for a file from elsewhere whose input and output are integers.
        """
        interpreter = _interpreter(path, threads)
        image, logits = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        free_batch, batch = image["shape_signature"][0] == -1, 1

        def run(images: np.ndarray) -> np.ndarray:
            nonlocal batch
            results = []
            pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
            if free_batch and len(pixels) != batch:
                interpreter.resize_tensor_input(image["index"], pixels.shape)
                interpreter.allocate_tensors()
                batch = len(pixels)
            for taken in (pixels,) if free_batch else pixels[:, None]:
                floats = image["dtype"] is np.float32
                given = taken if floats else quantized(taken, image["dtype"], image["quantization"])
                interpreter.set_tensor(image["index"], given)
                interpreter.invoke()
                found = interpreter.get_tensor(logits["index"])
                results.append(found if logits["dtype"] is np.float32 else dequantized(found, logits["quantization"]))
            return results[0] if len(results) == 1 else np.concatenate(results)

        return run

    def graph(self, path: Path) -> Graph:
        _interpreter(path, 1)
        from src.deploy.tflite_graph import graph_of

        return graph_of(tflite_file.parsed(path.read_bytes()))

    def read_card(self, path: Path) -> ModelCard:
        _interpreter(path, 1)
        file = tflite_file.parsed(path.read_bytes())
        text = {}
        for entry in file.metadata or []:
            if entry.name == tflite_file.METADATA:
                try:
                    text = read_json(bytes(file.buffers[entry.buffer].data))
                except ValueError as error:
                    raise InputError(f"{path}: its metadata cannot be read: {error}") from error
        return cards.from_text(text if isinstance(text, dict) else {}, path)


def _interpreter(path: Path, threads: int) -> Any:
    """The file in an interpreter whose tensors are allocated; raise InputError if it is no TFLite file."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError(MISSING) from error
    if not path.is_file():
        raise InputError(f"{path} cannot be loaded by TFLite: there is no such file")
    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be loaded by TFLite: {first_line(error)}") from error
    return interpreter


# Converting ---------------------------------------------------------------------------------------


def _convert(model: nn.Module, example_input: Tensor, integer: bool) -> bytes:
    """What litert-torch makes of the network; ``integer`` says whether its quantizers become integer kernels."""
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _silent():
            import litert_torch
            from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
            from litert_torch.quantize.quant_config import QuantConfig
    except ImportError as error:
        raise InputError(MISSING) from error
    from src.deploy.tflite_layouts import own_dequantizations

    # This turns the quantize and dequantize operators of the graph into integer kernels; it adds none.
    static = QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(get_symmetric_quantization_config()))
    channels_last = litert_torch.to_channel_last_io(model, args=[0]).eval()
    image = example_input.permute(0, 2, 3, 1).contiguous()
    try:
        with _silent(), own_dequantizations():
            edge = litert_torch.convert(channels_last, (image,), quant_config=static if integer else None)
            return bytes(edge.model_content())
    except Exception as error:  # from torch, MLIR or the converter, without a common class
        raise InputError(
            f"the network cannot be written as a TFLite file{_failed_layer(error)}: {first_line(error)}"
        ) from error


def _failed_layer(error: BaseException) -> str:
    """Text that names the layer and operator where the converter failed; empty if the error does not tell."""
    from torch.fx import Node

    traceback, node = error.__traceback__, None
    while traceback is not None:
        found = traceback.tb_frame.f_locals.get("node") or traceback.tb_frame.f_locals.get("n")
        node = found if isinstance(found, Node) else node
        traceback = traceback.tb_next
    if node is None:
        return ""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    layer = str(stack[-1][0]).removeprefix("wrapped").removeprefix(".") if stack else ""
    return f" (layer {layer or 'at the root'}, operator {node.target})"


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep stdout and stderr empty in the block, native code included, and drop log lines below errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
        logging.disable(before)
