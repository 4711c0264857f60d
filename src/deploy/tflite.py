"""TFLite files: converted by litert-torch, run by LiteRT's interpreter with XNNPACK."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.contracts import Graph, InputError, ModelCard, Session, StoredWeight, first_line
from src.deploy import cards, tflite_file

if TYPE_CHECKING:
    from torch import Tensor, nn

STORED = ("float32", "float16")


class TfLite:
    """Writes ``.tflite``, channels last inside, floats in and out.

    An INT8 network runs in integer kernels with the scales it was given; its last layer, for whose output there is no
    scale, has int8 weights and gives floats (the runtime quantizes its input by the image's own range).

    Args:
        stored: ``float32`` or ``float16`` weights in the file; arithmetic is in float32.
        dynamic_batch: Whether the file says that it takes any number of images; else it takes them one by one.
    """

    runtime = "tflite"
    ending = "tflite"
    extra: str | None = "tflite"

    def __init__(self, *, stored: str, dynamic_batch: bool) -> None:
        if stored not in STORED:
            raise ValueError(f"stored must be one of {', '.join(STORED)}, and is {stored}")
        self.stored, self.free_batch = stored, dynamic_batch

    def precision(self, integer: bool) -> str:
        kept = "" if self.stored == "float32" else f", {self.stored} stored"
        return ("int8" if integer else "float32") + kept

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        """Raises InputError where an operator has no counterpart in the format."""
        from src.deploy.quantized_program import with_operators

        quantizing, integers = with_operators(model, example_input)
        file = tflite_file.parsed(_convert(quantizing, example_input, bool(integers)))
        tflite_file.give_each_activation_one_scale(file)
        tflite_file.take_floats(file)
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
        part = path.with_name(path.name + ".part")
        part.write_bytes(tflite_file.packed(file))
        os.replace(part, path)
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Floats in and out, also of a file of integers from elsewhere; InputError where it is no TFLite file."""
        interpreter = _interpreter(path, threads)
        source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        image, logits = source["index"], result["index"]
        free, held = source["shape_signature"][0] == -1, 1

        def run(images: np.ndarray) -> np.ndarray:
            nonlocal held
            results = []
            pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
            if free and len(pixels) != held:
                interpreter.resize_tensor_input(image, pixels.shape)
                interpreter.allocate_tensors()
                held = len(pixels)
            for some in (pixels,) if free else pixels[:, None]:
                interpreter.set_tensor(image, some if source["dtype"] is np.float32 else _steps(some, source))
                interpreter.invoke()
                found = interpreter.get_tensor(logits)
                results.append(found if result["dtype"] is np.float32 else _floats(found, result))
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
                text = json.loads(bytes(file.buffers[entry.buffer].data))
        return cards.from_text(text, path)


def _steps(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Floats in the integers of a tensor."""
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max).astype(details["dtype"])


def _floats(steps: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """What the integers of a tensor stand for."""
    scale, zero_point = details["quantization"]
    return (steps.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _interpreter(path: Path, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError("the target tflite needs the extra tflite: pip install '.[tflite]'") from error
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
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _silent():
            import litert_torch
            from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
            from litert_torch.quantize.quant_config import QuantConfig
    except ImportError as error:
        raise InputError("the target tflite needs the extra tflite: pip install '.[tflite]'") from error
    # It says that quantize and dequantize operators in the graph are to become integer kernels; it places none.
    static = QuantConfig(pt2e_quantizer=PT2EQuantizer().set_global(get_symmetric_quantization_config()))
    channels_last = litert_torch.to_channel_last_io(model, args=[0]).eval()
    image = example_input.permute(0, 2, 3, 1).contiguous()
    try:
        with _silent():
            edge = litert_torch.convert(channels_last, (image,), quant_config=static if integer else None)
            return bytes(edge.model_content())
    except Exception as error:  # of torch, of MLIR, of the converter: no common class
        raise InputError(
            f"the network cannot be written as a TFLite file{_place(error)}: {first_line(error)}"
        ) from error


def _place(error: BaseException) -> str:
    """The layer and the operator at which the converter failed, as far as the frames of its error tell."""
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
    """Nothing on stdout and stderr, native code's lines included, and no log line below an error."""
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
