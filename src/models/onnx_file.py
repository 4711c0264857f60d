"""Networks read from ONNX files, as modules that can be trained and compressed."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.contracts import InputError, first_line

QUANTIZED = re.compile(r"QLinear|QuantizeLinear|Integer$|NBits|^QAttention|^QGemm")
CLOSE = 1e-4  # difference of outputs from those of ONNX Runtime, as a share of their range
FREE = "batch"
FREE_INITIALIZERS = 4  # the first version of the format whose stored weights are not listed as inputs


class ChannelsLast(nn.Module):
    """Feeds images ``[n, c, h, w]`` to a network that takes ``[n, h, w, c]``, as those of TensorFlow do.

    Args:
        net: The network.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.net(images.permute(0, 2, 3, 1))
        return result


def onnx_network(*, file: Path, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Build the network that an ONNX file holds, with its weights.

    ONNX Runtime first folds constants, and joins MatMul and Add, so that every weight becomes one of a layer. The
    module's outputs are compared with those of the file.

    Args:
        file: The ONNX file.
        in_channels, image_size: Number of image channels; ``(height, width)`` of the images.

    Raises:
        InputError: A library is missing, or the file cannot be read, was quantized, does not fit the images, has an
            operation that cannot be turned into a layer, or gives other outputs as a module.
    """
    import onnx

    try:
        model = onnx.load(str(file))
    except Exception as error:  # protobuf's exceptions and others
        raise InputError(f"model.weights: {file} cannot be read as an ONNX file ({first_line(error)})") from error
    quantized = sorted({node.op_type for node in model.graph.node if QUANTIZED.search(node.op_type)})
    if quantized:
        raise InputError(
            f"model.weights: {file} was quantized ({', '.join(quantized)}), and integers cannot be trained or "
            f"compressed again: take the float file that it was made from"
        )
    last = _free_batch(model, file, (in_channels, *image_size))
    folded = _folded(model, file)
    module = _converted(folded, file)
    module = ChannelsLast(module) if last else module
    _compare(module, model, file, (in_channels, *image_size), last)
    return module


def _free_batch(model: Any, file: Path, shape: tuple[int, int, int]) -> bool:
    """Make the batch size of the graph variable, in place; return whether the graph takes the channels last."""
    stored = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in stored]
    if len(inputs) != 1:
        named = ", ".join(each.name for each in inputs)
        raise InputError(
            f"model.weights: {file} takes {len(inputs)} inputs ({named}), and this project gives a network only images"
        )
    dims = inputs[0].type.tensor_type.shape.dim
    sizes = [dim.dim_value for dim in dims]
    orders = {"nchw": list(shape), "nhwc": [*shape[1:], shape[0]]}
    fits = [
        name
        for name, order in orders.items()
        if len(sizes) == 4 and all(size in (0, wanted) for size, wanted in zip(sizes[1:], order, strict=True))
    ]
    if not fits:
        raise InputError(
            f"model.weights: {file} takes images of {'x'.join(str(size or '?') for size in sizes[1:])}, and the data "
            f"has {'x'.join(map(str, shape))} (channels, height, width)"
        )
    fixed = sizes[0]
    for value, order in ((inputs[0], orders[fits[0]]), *((each, None) for each in model.graph.output)):
        shape_dims = value.type.tensor_type.shape.dim
        for at, dim in enumerate(shape_dims):
            if at == 0:
                dim.ClearField("dim_value")
                dim.dim_param = FREE
            elif order is not None:
                dim.ClearField("dim_param")
                dim.dim_value = order[at - 1]
    del model.graph.value_info[:]
    if fixed > 0:
        _free_reshapes(model, fixed)
    return fits[0] == "nhwc"


def _free_reshapes(model: Any, fixed: int) -> None:
    """Make each Reshape to ``[fixed, …]`` variable; ``fixed`` is the number of images that the file was written for."""
    from onnx import numpy_helper

    constants = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape" and node.input[1] in constants}
    for name in shapes:
        shape = numpy_helper.to_array(constants[name]).copy()
        if len(shape) > 1 and shape[0] == fixed:
            rest = [at for at in range(1, len(shape)) if shape[at] == -1]
            shape[0] = 0 if rest else -1  # 0 copies the size, -1 leaves it open
            constants[name].CopyFrom(numpy_helper.from_array(shape, constants[name].name))


def _folded(model: Any, file: Path) -> Any:
    """The graph after ONNX Runtime's basic optimization, whose result every runtime can read."""
    import tempfile

    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["ConvBNFusion", "ConvMulFusion", "ConvAddFusion"],  # training needs the layers
            )
        except Exception as error:  # its exceptions have no common public base class
            raise InputError(f"model.weights: {file} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
        folded = onnx.load(options.optimized_model_filepath)
    image = [each for each in model.graph.input if each.name not in {kept.name for kept in model.graph.initializer}]
    for each in [each for each in folded.graph.input if each.name != image[0].name]:
        folded.graph.input.remove(each)  # old versions of the format list weights among the inputs
    used = {node.domain for node in folded.graph.node}
    kept = [each for each in folded.opset_import if each.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    folded.ir_version = max(folded.ir_version, FREE_INITIALIZERS)
    return folded


def _converted(model: Any, file: Path) -> nn.Module:
    try:
        from onnx2torch import convert
    except ImportError as error:
        raise InputError(f"model=onnx needs {error.name}, which is not installed: pip install '.[onnx]'") from error
    logging.getLogger("onnx2torch").setLevel(logging.ERROR)
    try:
        module: nn.Module = convert(model)
    except Exception as error:  # NotImplementedError, KeyError, ValueError, …
        raise InputError(f"model.weights: {file} cannot be turned into layers: {first_line(error)}") from error
    return module


def _compare(module: nn.Module, model: Any, file: Path, shape: tuple[int, int, int], last: bool) -> None:
    """Raise InputError if the outputs of the module and of the file differ on two images."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    given = (images.permute(0, 2, 3, 1).contiguous() if last else images).numpy()
    try:
        expected = session.run(None, {session.get_inputs()[0].name: given})
        with torch.no_grad():
            outputs = module.eval()(images)
    except Exception as error:  # of the runtime or of a layer
        raise InputError(f"model.weights: {file} does not take two images at once: {first_line(error)}") from error
    found = [each.numpy() for each in (outputs if isinstance(outputs, (list, tuple)) else [outputs])]
    if len(found) != len(expected) or not all(map(_close, found, expected)):
        raise InputError(f"model.weights: {file} gives other results as layers than in ONNX Runtime; it cannot be used")


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether an output is the expected one, up to rounding."""
    if found.shape != expected.shape:
        return False
    largest = float(np.abs(expected).max(initial=0.0))
    return float(np.abs(found - expected).max(initial=0.0)) <= CLOSE * max(largest, 1e-6)
