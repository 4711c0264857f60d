"""TFLite files: converted by litert-torch, run by LiteRT's interpreter with XNNPACK."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.contracts import Graph, GraphNode, GraphTensor, InputError, ModelCard, Role, Session, StoredWeight, first_line
from src.deploy import cards

if TYPE_CHECKING:
    from torch import Tensor, nn

STORED = ("float32", "float16")
METADATA = b"dnn_compression"
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")
ROLES = {
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), Role.MOVING),
    **dict.fromkeys(("RELU", "RELU6", "LOGISTIC", "HARD_SWISH", "TANH", "ADD", "MUL", "SUB"), Role.IN_PLACE),
    "MAX_POOL_2D": Role.POOLING,
    "QUANTIZE": Role.QUANTIZE,
    "DEQUANTIZE": Role.DEQUANTIZE,
}
RELU6 = 3  # in the schema's ActivationFunctionType


class TfLite:
    """Writes ``.tflite``, for one image at a time, channels last inside, floats in and out.

    An INT8 network runs in integer kernels with the scales it was given; its last layer, for whose output there is no
    scale, has int8 weights and gives floats (the runtime quantizes its input by the image's own range).

    Args:
        stored: ``float32`` or ``float16`` weights in the file; arithmetic is in float32.
    """

    runtime = "tflite"
    ending = "tflite"
    extra: str | None = "tflite"
    free_batch = False

    def __init__(self, *, stored: str) -> None:
        if stored not in STORED:
            raise ValueError(f"stored must be one of {', '.join(STORED)}, and is {stored}")
        self.stored = stored

    def precision(self, integer: bool) -> str:
        kept = "" if self.stored == "float32" else f", {self.stored} stored"
        return ("int8" if integer else "float32") + kept

    def export(
        self, model: nn.Module, example_input: Tensor, path: Path, card: ModelCard, weights: Mapping[str, StoredWeight]
    ) -> tuple[Path, ...]:
        """Raises InputError where an operator has no counterpart in the format."""
        from src.deploy.quantized_program import with_operators

        quantizing, integers = with_operators(model, example_input)
        file = _parsed(_convert(quantizing, example_input, bool(integers)))
        _give_each_activation_one_scale(file)
        _take_floats(file)
        _store_integers(file, weights, dynamic=False)
        _store_integers(file, integers, dynamic=True)
        if self.stored == "float16":
            _store_halves(file)
        _drop_transposes(file)
        _drop_unused(file)
        _shorten_names(file)
        _add_metadata(file, json.dumps(cards.to_text(card)).encode())
        part = path.with_name(path.name + ".part")
        part.write_bytes(_packed(file))
        os.replace(part, path)
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Session:
        """Raises InputError where the file is no TFLite file."""
        interpreter = _interpreter(path, threads)
        image, logits = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

        def run(images: np.ndarray) -> np.ndarray:
            results = []
            for one in np.ascontiguousarray(images.transpose(0, 2, 3, 1)):
                interpreter.set_tensor(image, one[None])
                interpreter.invoke()
                results.append(interpreter.get_tensor(logits))
            return results[0] if len(results) == 1 else np.concatenate(results)

        return run

    def graph(self, path: Path) -> Graph:
        _interpreter(path, 1)
        return _graph(_parsed(path.read_bytes()))

    def read_card(self, path: Path) -> ModelCard:
        _interpreter(path, 1)
        file = _parsed(path.read_bytes())
        text = {}
        for entry in file.metadata or []:
            if entry.name == METADATA:
                text = json.loads(bytes(file.buffers[entry.buffer].data))
        return cards.from_text(text, path)


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


# The file as objects ------------------------------------------------------------------------------


def _parsed(content: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for operator in file.subgraphs[0].operators:
        operator.inputs, operator.outputs = list(map(int, operator.inputs)), list(map(int, operator.outputs))
    return file


def _packed(file: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _kind(file: Any, operator: Any) -> str:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    code = file.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return next(name for name, value in vars(BuiltinOperator).items() if value == number)


def _types() -> Any:
    from ai_edge_litert.schema_py_generated import TensorType

    return TensorType


def _dtype(tensor: Any) -> np.dtype:
    kinds = _types()
    known = {kinds.FLOAT32: "<f4", kinds.FLOAT16: "<f2", kinds.INT8: "i1", kinds.UINT8: "u1", kinds.INT32: "<i4"}
    return np.dtype({**known, kinds.INT64: "<i8", kinds.BOOL: "?", kinds.INT16: "<i2"}[tensor.type])


def _array(file: Any, tensor: Any) -> np.ndarray | None:
    """The stored values of a tensor; None where it is an activation."""
    data = file.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    return np.frombuffer(bytes(data), _dtype(tensor)).reshape(tensor.shape)


def _store(file: Any, tensor: Any, array: np.ndarray) -> None:
    file.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _readers(file: Any, index: int) -> list[Any]:
    return [operator for operator in file.subgraphs[0].operators if index in operator.inputs]


def _tensor_like(file: Any, tensor: Any, kind: int) -> int:
    """Add an activation of the same shape; its index."""
    from ai_edge_litert.schema_py_generated import TensorT

    added = TensorT()
    added.shape, added.shapeSignature, added.type, added.buffer = tensor.shape, tensor.shapeSignature, kind, 0
    added.name = f"t{len(file.subgraphs[0].tensors)}".encode()
    file.subgraphs[0].tensors.append(added)
    return len(file.subgraphs[0].tensors) - 1


def _operator(file: Any, kind: str, version: int, source: int, result: int) -> Any:
    from ai_edge_litert.schema_py_generated import BuiltinOperator, OperatorCodeT, OperatorT

    number = getattr(BuiltinOperator, kind)
    wanted = [n for n, c in enumerate(file.operatorCodes) if max(c.builtinCode, c.deprecatedBuiltinCode) == number]
    if not wanted:
        code = OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
        file.operatorCodes.append(code)
        wanted = [len(file.operatorCodes) - 1]
    code = file.operatorCodes[wanted[0]]
    code.version = max(code.version, version)
    made = OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = wanted[0], [source], [result]
    return made


def _quantization(scale: np.ndarray, zero_point: np.ndarray, axis: int) -> Any:
    from ai_edge_litert.schema_py_generated import QuantizationParametersT

    made = QuantizationParametersT()
    made.scale, made.zeroPoint = scale.astype(np.float32).reshape(-1), zero_point.astype(np.int64).reshape(-1)
    made.quantizedDimension = axis
    return made


# Changes ------------------------------------------------------------------------------------------


def _give_each_activation_one_scale(file: Any) -> None:
    """Replace scales per channel of activations, which NNCF gives depthwise convolutions, by one, in place.

    The convolution before multiplies its scale of channel c by ``s / s_c``, the depthwise one by ``s_c / s``: every
    integer stays what it was. ``s`` is at most 6 / 255, so that ReLU6 cuts nothing that the integers' range does not.
    """
    graph = file.subgraphs[0]
    made_by = {index: operator for operator in graph.operators for index in operator.outputs}
    for index, tensor in enumerate(graph.tensors):
        grid = tensor.quantization
        if index not in made_by or grid is None or grid.scale is None or len(grid.scale) == 1:
            continue
        maker, readers = made_by[index], _readers(file, index)
        if _kind(file, maker) == "PAD":
            continue  # it takes what it pads
        chain = [index]
        while len(readers) == 1 and _kind(file, readers[0]) == "PAD":
            chain.append(readers[0].outputs[0])
            readers = _readers(file, chain[-1])
        scales = np.asarray(grid.scale, np.float64)
        fits = _kind(file, maker) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        clipped = getattr(maker.builtinOptions, "fusedActivationFunction", 0) == RELU6
        if not fits or not all(_kind(file, reader) == "DEPTHWISE_CONV_2D" for reader in readers):
            raise InputError(
                f"TFLite has no scales per channel for the activation {tensor.name.decode()}: "
                "they are possible only between a convolution and a depthwise one"
            )
        one = min(scales.max(), 6 / 255) if clipped else scales.max()
        if clipped and scales.max() > 1.001 * 6 / 255:
            raise InputError(f"a scale of {tensor.name.decode()} reaches beyond the 6 where ReLU6 cuts")
        for at in chain:
            graph.tensors[at].quantization = _quantization(np.array([one]), np.asarray(grid.zeroPoint)[:1], 0)
        for place in maker.inputs[1:3]:
            _multiply_scales(graph.tensors[place], one / scales)
        for reader in readers:  # input scale times weight scale, the bias's, stays as it was
            _multiply_scales(graph.tensors[reader.inputs[1]], scales / one)


def _multiply_scales(tensor: Any, factors: np.ndarray) -> None:
    grid = tensor.quantization
    scales = np.asarray(grid.scale, np.float64) * factors
    axis = grid.quantizedDimension if len(grid.scale) > 1 else len(tensor.shape) - 1 if len(tensor.shape) == 4 else 0
    tensor.quantization = _quantization(scales, np.resize(np.asarray(grid.zeroPoint), len(scales)), axis)


def _take_floats(file: Any) -> None:
    """Quantize the image inside the file, in place: faster than any caller would."""
    graph, kinds = file.subgraphs[0], _types()
    index = int(graph.inputs[0])
    if graph.tensors[index].type != kinds.INT8:
        return
    image = _tensor_like(file, graph.tensors[index], kinds.FLOAT32)
    graph.operators.insert(0, _operator(file, "QUANTIZE", 1, image, index))
    graph.inputs = [image]
    for signature in file.signatureDefs or []:
        signature.inputs[0].tensorIndex = image


def _store_integers(file: Any, weights: Mapping[str, StoredWeight], *, dynamic: bool) -> None:
    """Store each float tensor that is one of ``weights`` as int8, in place.

    Args:
        file: What the converter wrote.
        weights: By parameter name; those of more than 8 bits stay floats.
        dynamic: Whether dense layers compute in integers, their input being quantized by its own range; everything
            else makes floats of the weights when the file is loaded.
    """
    graph, kinds = file.subgraphs[0], _types()
    forms = _forms(weights)
    ahead = []
    for operator in list(graph.operators):
        kind = _kind(file, operator)
        if kind not in WEIGHTED:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        array = _array(file, tensor)
        if array is None or array.dtype != np.float32:
            continue
        form = next((form for form in forms if _same(form.floats, array)), None)
        if form is None:
            continue
        grid = _quantization(form.scale, form.zero_point, form.axis)
        if dynamic and kind == "FULLY_CONNECTED" and not form.zero_point.any():
            _store(file, tensor, form.integers)
            tensor.type, tensor.quantization = kinds.INT8, grid
            operator.builtinOptions.asymmetricQuantizeInputs = True
            code = file.operatorCodes[operator.opcodeIndex]
            code.version = max(code.version, 9)
        else:
            ahead.append(_behind_dequantize(file, operator.inputs[1], form.integers, kinds.INT8, grid))
    graph.operators = [*ahead, *graph.operators]


@dataclass(frozen=True)
class _Form:
    """A stored weight in one of the layouts of the format; scales lie along ``axis``."""

    floats: np.ndarray
    integers: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int


def _forms(weights: Mapping[str, StoredWeight]) -> list[_Form]:
    """Each weight of up to 8 bits as convolutions, depthwise convolutions or dense layers hold it."""
    from src.deploy.quantized_program import as_int8, values

    forms = []
    for stored in weights.values():
        if stored.bits > 8:
            continue
        floats, (integers, scale, zero_point) = values(stored).numpy(), (part.numpy() for part in as_int8(stored))
        if floats.ndim != 4:
            forms.append(_Form(floats, integers, scale, zero_point, 0))
            continue
        for order, axis in (((0, 2, 3, 1), 0), ((1, 2, 3, 0), 3)):
            forms.append(_Form(floats.transpose(order), integers.transpose(order), scale, zero_point, axis))
    return forms


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-5, atol=0)


def _behind_dequantize(file: Any, index: int, array: np.ndarray, kind: int, grid: Any) -> Any:
    """Move a constant to a new tensor of another type; the operation that makes floats of it again."""
    tensor = file.subgraphs[0].tensors[index]
    stored = _tensor_like(file, tensor, kind)
    added = file.subgraphs[0].tensors[stored]
    added.buffer, added.quantization, tensor.buffer = tensor.buffer, grid, 0
    _store(file, added, array)
    return _operator(file, "DEQUANTIZE", 5 if grid is not None else 3, stored, index)


def _store_halves(file: Any) -> None:
    """Store each float weight and bias as float16, in place."""
    graph, kinds = file.subgraphs[0], _types()
    wanted = {i for o in graph.operators if _kind(file, o) in WEIGHTED for i in o.inputs[1:] if i >= 0}
    ahead = []
    for index in sorted(wanted):
        array = _array(file, graph.tensors[index])
        if array is not None and array.dtype == np.float32:
            ahead.append(_behind_dequantize(file, index, array.astype(np.float16), kinds.FLOAT16, None))
    graph.operators = [*ahead, *graph.operators]


def _drop_transposes(file: Any) -> None:
    """Order a dense layer's weights as the pixels lie in memory, instead of reordering pixels before it, in place."""
    graph = file.subgraphs[0]
    kept = []
    outputs = {int(index) for index in graph.outputs}
    for operator in graph.operators:
        reshape = _only_reader(file, operator, "TRANSPOSE", "RESHAPE", outputs)
        dense = _only_reader(file, reshape, "RESHAPE", "FULLY_CONNECTED", outputs) if reshape else None
        order = _array(file, graph.tensors[operator.inputs[1]]) if dense else None
        if reshape and dense and order is not None and order.tolist() == [0, 3, 1, 2]:
            _, height, width, channels = graph.tensors[operator.inputs[0]].shape
            place = next((o.inputs[0] for o in graph.operators if dense.inputs[1] in o.outputs), dense.inputs[1])
            weight = graph.tensors[place]
            array = _array(file, weight)
            alone = len(_readers(file, place)) == 1 and array is not None
            if alone and array is not None and array.shape[1] == channels * height * width:
                _store(file, weight, array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))
                reshape.inputs = [operator.inputs[0], *reshape.inputs[1:]]
                continue
        kept.append(operator)
    graph.operators = kept


def _only_reader(file: Any, operator: Any, kind: str, reader_kind: str, outputs: set[int]) -> Any | None:
    if _kind(file, operator) != kind or operator.outputs[0] in outputs:
        return None
    readers = _readers(file, operator.outputs[0])
    return readers[0] if len(readers) == 1 and _kind(file, readers[0]) == reader_kind else None


def _drop_unused(file: Any) -> None:
    """Drop tensors that no operation touches, and what they held, in place: tools that walk all of them trip."""
    graph = file.subgraphs[0]
    ends = [int(index) for index in (*graph.inputs, *graph.outputs)]
    touched = {index for o in graph.operators for index in (*o.inputs, *o.outputs)} | set(ends)
    kept = [index for index in range(len(graph.tensors)) if index in touched]
    places = {-1: -1, **{index: place for place, index in enumerate(kept)}}
    graph.tensors = [graph.tensors[index] for index in kept]
    graph.inputs = [places[int(index)] for index in graph.inputs]
    graph.outputs = [places[int(index)] for index in graph.outputs]
    for operator in graph.operators:
        operator.inputs = [places[index] for index in operator.inputs]
        operator.outputs = [places[index] for index in operator.outputs]
    for signature in file.signatureDefs or []:
        for end in (*signature.inputs, *signature.outputs):
            end.tensorIndex = places[end.tensorIndex]
    entries = [*graph.tensors, *(file.metadata or [])]
    held = sorted({0, *(entry.buffer for entry in entries)})
    moved = {buffer: place for place, buffer in enumerate(held)}
    file.buffers = [file.buffers[buffer] for buffer in held]
    for entry in entries:
        entry.buffer = moved[entry.buffer]


def _shorten_names(file: Any) -> None:
    """The converter's names, paths of modules and classes, take more bytes than a small network's biases."""
    graph = file.subgraphs[0]
    for index, tensor in enumerate(graph.tensors):
        tensor.name = f"t{index}".encode()
    graph.tensors[int(graph.inputs[0])].name, graph.tensors[int(graph.outputs[0])].name = b"image", b"logits"


def _add_metadata(file: Any, content: bytes) -> None:
    from ai_edge_litert.schema_py_generated import BufferT, MetadataT

    buffer, entry = BufferT(), MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    file.buffers.append(buffer)
    entry.name, entry.buffer = METADATA, len(file.buffers) - 1
    file.metadata = [*(file.metadata or []), entry]


# Reading ------------------------------------------------------------------------------------------


def _graph(file: Any) -> Graph:
    graph = file.subgraphs[0]
    tensors: dict[str, GraphTensor] = {}
    names: dict[int, str] = {}
    stored: dict[int, int] = {}  # what only makes floats of a constant -> the constant
    for index, tensor in enumerate(graph.tensors):
        names[index] = f"{index}"
        array = _array(file, tensor)
        elements = math.prod(map(int, tensor.shape)) if tensor.shape is not None else 1
        nonzero = None
        if array is not None:
            stored[index] = index
            nonzero = int(np.count_nonzero(_steps(array, tensor)))
        tensors[names[index]] = GraphTensor(elements, elements * _dtype(tensor).itemsize, nonzero)
    nodes: list[GraphNode] = []
    weights: list[str] = []
    for operator in graph.operators:
        kind = _kind(file, operator)
        inputs = [index for index in operator.inputs if index >= 0]
        if kind == "DEQUANTIZE" and inputs[0] in stored:
            stored[operator.outputs[0]] = stored[inputs[0]]
        constants = [stored[index] for index in inputs if index in stored]
        if kind in WEIGHTED:
            weights += [names[index] for index in constants]
        elif kind in ("ADD", "MUL", "SUB"):
            weights += [names[index] for index in constants if tensors[names[index]].elements > 1]
        reads, makes = tuple(names[i] for i in inputs), tuple(names[i] for i in operator.outputs)
        role = ROLES.get(kind, Role.COMPUTE)
        if kind == "PAD" and all(_kind(file, reader) in WEIGHTED for reader in _readers(file, operator.outputs[0])):
            role = Role.MOVING  # XNNPACK lets the convolution after it pad
        nodes.append(GraphNode(reads, makes, role, _macs(graph, kind, operator)))
    return Graph(
        tuple(nodes),
        tensors,
        tuple(dict.fromkeys(weights)),
        tuple(names[int(index)] for index in graph.inputs),
        tuple(names[int(index)] for index in graph.outputs),
    )


def _steps(array: np.ndarray, tensor: Any) -> np.ndarray:
    """Distance of stored integers from their zero point; floats as they are."""
    grid = tensor.quantization
    if array.dtype.kind == "f" or grid is None or grid.zeroPoint is None or not np.any(grid.zeroPoint):
        return array
    along = [1] * array.ndim
    along[grid.quantizedDimension] = -1
    return array.astype(np.int64) - np.asarray(grid.zeroPoint).reshape(along if len(grid.zeroPoint) > 1 else ())


def _macs(graph: Any, kind: str, operator: Any) -> int:
    if kind not in WEIGHTED:
        return 0
    made = math.prod(map(int, graph.tensors[operator.outputs[0]].shape))
    weight = [int(size) for size in graph.tensors[operator.inputs[1]].shape]
    if kind == "CONV_2D":
        return made * math.prod(weight[1:])
    if kind == "DEPTHWISE_CONV_2D":
        return made * math.prod(weight[1:3])
    if kind == "TRANSPOSE_CONV":  # the filter, the image, the output's shape are its inputs in another order
        image = graph.tensors[operator.inputs[2]].shape
        return math.prod(map(int, image)) * math.prod([weight[0], *weight[1:3]])
    return made * int(graph.tensors[operator.inputs[0]].shape[-1])
