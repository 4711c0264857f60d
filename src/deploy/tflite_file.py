"""The flatbuffer of a TFLite file as objects of its schema, and the changes made to it before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from src.contracts import StoredWeight

METADATA = b"dnn_compression"
FIXED_SCALES = {"SOFTMAX": 1 / 256, "LOGISTIC": 1 / 256, "TANH": 1 / 128}
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")


def parsed(content: bytes) -> Any:
    """The content of a file as objects of the schema; inputs and outputs of operators are lists."""
    from ai_edge_litert import schema_py_generated as schema

    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for operator in file.subgraphs[0].operators:
        operator.inputs, operator.outputs = list(map(int, operator.inputs)), list(map(int, operator.outputs))
    return file


def packed(file: Any) -> bytes:
    """The content of a file whose objects are ``file``."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def kind_of(file: Any, operator: Any) -> str:
    """Name of an operator in the schema: ``CONV_2D``, ..."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    code = file.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return next(name for name, value in vars(BuiltinOperator).items() if value == number)


def _types() -> Any:
    from ai_edge_litert.schema_py_generated import TensorType

    return TensorType


def dtype_of(tensor: Any) -> np.dtype:
    """The numpy type of a tensor's values."""
    kinds = _types()
    known = {kinds.FLOAT32: "<f4", kinds.FLOAT16: "<f2", kinds.INT8: "i1", kinds.UINT8: "u1", kinds.INT32: "<i4"}
    return np.dtype({**known, kinds.INT64: "<i8", kinds.BOOL: "?", kinds.INT16: "<i2"}[tensor.type])


def array_of(file: Any, tensor: Any) -> np.ndarray | None:
    """The stored values of a tensor; None if it is an activation."""
    data = file.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    return np.frombuffer(bytes(data), dtype_of(tensor)).reshape(tensor.shape)


def _store(file: Any, tensor: Any, array: np.ndarray) -> None:
    file.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def readers_of(file: Any, index: int) -> list[Any]:
    """The operators that read a tensor."""
    return [operator for operator in file.subgraphs[0].operators if index in operator.inputs]


def _tensor_like(file: Any, tensor: Any, kind: int) -> int:
    """Add an activation of the same shape and return its index."""
    from ai_edge_litert.schema_py_generated import TensorT

    added = TensorT()
    added.shape, added.shapeSignature, added.type, added.buffer = tensor.shape, tensor.shapeSignature, kind, 0
    added.name = f"t{len(file.subgraphs[0].tensors)}".encode()
    file.subgraphs[0].tensors.append(added)
    return len(file.subgraphs[0].tensors) - 1


def _operator(file: Any, kind: str, version: int, source: int, result: int) -> Any:
    """A new operator with one input and one output; it is not yet in the graph."""
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
    """The schema's object for scales and zero points that lie along ``axis``."""
    from ai_edge_litert.schema_py_generated import QuantizationParametersT

    made = QuantizationParametersT()
    made.scale, made.zeroPoint = scale.astype(np.float32).reshape(-1), zero_point.astype(np.int64).reshape(-1)
    made.quantizedDimension = axis
    return made


# Changes ------------------------------------------------------------------------------------------


def take_floats(file: Any) -> None:
    """Let the file take float images and quantize them itself, in place, which is faster than a caller would be."""
    graph, kinds = file.subgraphs[0], _types()
    index = int(graph.inputs[0])
    if graph.tensors[index].type != kinds.INT8:
        return
    image = _tensor_like(file, graph.tensors[index], kinds.FLOAT32)
    graph.operators.insert(0, _operator(file, "QUANTIZE", 1, image, index))
    graph.inputs = [image]
    for signature in file.signatureDefs or []:
        signature.inputs[0].tensorIndex = image


def free_scales(file: Any) -> None:
    """Compute a softmax, sigmoid or tanh whose integers have another scale than its kernel's in floats, in place.

    The integer kernels give 1/256 or 1/128 alone, which leaves a softmax over many positions a few steps; the file is
    not loaded with another scale.
    """
    graph, kinds = file.subgraphs[0], _types()
    ordered = []
    for operator in graph.operators:
        result = graph.tensors[operator.outputs[0]]
        fixed = FIXED_SCALES.get(kind_of(file, operator))
        if fixed is None or result.type != kinds.INT8 or np.isclose(result.quantization.scale[0], fixed, rtol=1e-3):
            ordered.append(operator)
            continue
        source, end = operator.inputs[0], operator.outputs[0]
        operator.inputs[0] = _tensor_like(file, graph.tensors[source], kinds.FLOAT32)
        operator.outputs[0] = _tensor_like(file, result, kinds.FLOAT32)
        ordered += [
            _operator(file, "DEQUANTIZE", 2, source, operator.inputs[0]),
            operator,
            _operator(file, "QUANTIZE", 1, operator.outputs[0], end),
        ]
    graph.operators = ordered


def store_integers(file: Any, weights: Mapping[str, StoredWeight], *, dynamic: bool) -> None:
    """Store each float tensor that equals one of ``weights`` as int8, in place.

    Args:
        file: File as the converter wrote it.
        weights: Weights by parameter name; those of more than 8 bits stay floats.
        dynamic: Whether dense layers compute in integers and quantize their input by its own range; all other weights
            are dequantized when the file is loaded.
    """
    graph, kinds = file.subgraphs[0], _types()
    forms = _forms(weights)
    ahead = []
    for operator in list(graph.operators):
        kind = kind_of(file, operator)
        if kind not in WEIGHTED:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        array = array_of(file, tensor)
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
    """A stored weight in one of the layouts of the format.

    Attributes:
        floats: Values of the weight.
        integers: Its integers as int8, of the same shape.
        scale, zero_point: Scales and zero points, ``[]`` or ``[out]``.
        axis: Axis of the outputs.
    """

    floats: np.ndarray
    integers: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int


def _forms(weights: Mapping[str, StoredWeight]) -> list[_Form]:
    """Each weight of up to 8 bits in the layouts of convolutions, depthwise convolutions and dense layers."""
    from src.deploy.quantized_program import as_int8

    forms = []
    for stored in weights.values():
        if stored.bits > 8:
            continue
        floats, (integers, scale, zero_point) = stored.values().numpy(), (part.numpy() for part in as_int8(stored))
        if floats.ndim != 4:
            forms.append(_Form(floats, integers, scale, zero_point, 0))
            continue
        for order, axis in (((0, 2, 3, 1), 0), ((1, 2, 3, 0), 3)):
            forms.append(_Form(floats.transpose(order), integers.transpose(order), scale, zero_point, axis))
    return forms


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays hold the same weight, as far as the converter's rounding goes."""
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-5, atol=0)


def _behind_dequantize(file: Any, index: int, array: np.ndarray, kind: int, grid: Any) -> Any:
    """Store a constant in another type; return the operator that turns it into floats again."""
    tensor = file.subgraphs[0].tensors[index]
    stored = _tensor_like(file, tensor, kind)
    added = file.subgraphs[0].tensors[stored]
    added.buffer, added.quantization, tensor.buffer = tensor.buffer, grid, 0
    _store(file, added, array)
    return _operator(file, "DEQUANTIZE", 5 if grid is not None else 3, stored, index)


def store_halves(file: Any) -> None:
    """Store each float weight and its bias as float16, in place; biases of integer kernels stay as they are."""
    graph, kinds = file.subgraphs[0], _types()
    weighted = [operator for operator in graph.operators if kind_of(file, operator) in WEIGHTED]
    floats = [operator for operator in weighted if graph.tensors[operator.inputs[1]].type == kinds.FLOAT32]
    wanted = {index for operator in floats for index in operator.inputs[1:] if index >= 0}
    ahead = []
    for index in sorted(wanted):
        array = array_of(file, graph.tensors[index])
        if array is not None and array.dtype == np.float32:
            ahead.append(_behind_dequantize(file, index, array.astype(np.float16), kinds.FLOAT16, None))
    graph.operators = [*ahead, *graph.operators]


def drop_transposes(file: Any) -> None:
    """Drop each transpose before a flattened dense layer and reorder the weights of the layer instead, in place."""
    graph = file.subgraphs[0]
    kept = []
    outputs = {int(index) for index in graph.outputs}
    for operator in graph.operators:
        reshape = _only_reader(file, operator, "TRANSPOSE", "RESHAPE", outputs)
        dense = _only_reader(file, reshape, "RESHAPE", "FULLY_CONNECTED", outputs) if reshape else None
        order = array_of(file, graph.tensors[operator.inputs[1]]) if dense else None
        if reshape and dense and order is not None and order.tolist() == [0, 3, 1, 2]:
            _, height, width, channels = graph.tensors[operator.inputs[0]].shape
            place = next((o.inputs[0] for o in graph.operators if dense.inputs[1] in o.outputs), dense.inputs[1])
            weight = graph.tensors[place]
            array = array_of(file, weight)
            alone = len(readers_of(file, place)) == 1 and array is not None
            if alone and array is not None and array.shape[1] == channels * height * width:
                _store(file, weight, array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))
                reshape.inputs = [operator.inputs[0], *reshape.inputs[1:]]
                continue
        kept.append(operator)
    graph.operators = kept


def _only_reader(file: Any, operator: Any, kind: str, reader_kind: str, outputs: set[int]) -> Any | None:
    """The only reader of ``operator``, if the two are of these kinds and the result is no output of the graph."""
    if kind_of(file, operator) != kind or operator.outputs[0] in outputs:
        return None
    readers = readers_of(file, operator.outputs[0])
    return readers[0] if len(readers) == 1 and kind_of(file, readers[0]) == reader_kind else None


def free_batch(file: Any) -> None:
    """Mark the first dimension of every activation as free, in place; shapes stay those of one image."""
    graph = file.subgraphs[0]
    for operator in graph.operators:
        if kind_of(file, operator) == "RESHAPE":
            wanted = array_of(file, graph.tensors[operator.inputs[1]])
            if wanted is not None and len(wanted) and wanted[0] == 1:
                freed = np.array([-1, *wanted[1:]], np.int32)
                _store(file, graph.tensors[operator.inputs[1]], freed)
                if operator.builtinOptions is not None:
                    operator.builtinOptions.newShape = freed
    for tensor in graph.tensors:
        if (
            array_of(file, tensor) is None
            and tensor.shape is not None
            and len(tensor.shape) > 1
            and tensor.shape[0] == 1
        ):
            tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)


def drop_unused(file: Any) -> None:
    """Drop tensors that no operator uses, and their values, in place; some tools fail on such tensors."""
    graph = file.subgraphs[0]
    ends = [int(index) for index in (*graph.inputs, *graph.outputs)]
    used = {index for o in graph.operators for index in (*o.inputs, *o.outputs)} | set(ends)
    kept = [index for index in range(len(graph.tensors)) if index in used]
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
    buffers = sorted({0, *(entry.buffer for entry in entries)})
    moved = {buffer: place for place, buffer in enumerate(buffers)}
    file.buffers = [file.buffers[buffer] for buffer in buffers]
    for entry in entries:
        entry.buffer = moved[entry.buffer]


def shorten_names(file: Any) -> None:
    """Name weights after their layer, ``features.0``, and all other tensors by numbers, in place.

    The converter names them by paths of modules and classes, which take more bytes than a small network's biases.
    """
    graph = file.subgraphs[0]
    layers = {
        operator.inputs[1]: _layer(graph.tensors[operator.inputs[1]].name.decode())
        for operator in graph.operators
        if kind_of(file, operator) in WEIGHTED
    }
    for index, tensor in enumerate(graph.tensors):
        tensor.name = (layers.get(index) or f"t{index}").encode()
    graph.tensors[int(graph.inputs[0])].name, graph.tensors[int(graph.outputs[0])].name = b"image", b"logits"


def _layer(name: str) -> str:
    """The layer in a name of the converter's, ``wrapper/…net_wrapped/…Sequential_features/…Conv2d_0;``; else empty."""
    modules = name.partition(";")[0].split("/")[2:]
    return ".".join(module.rpartition(".")[2].partition("_")[2] for module in modules)


def add_metadata(file: Any, content: bytes) -> None:
    """Add ``content`` as the metadata entry ``METADATA``, in place."""
    from ai_edge_litert.schema_py_generated import BufferT, MetadataT

    buffer, entry = BufferT(), MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    file.buffers.append(buffer)
    entry.name, entry.buffer = METADATA, len(file.buffers) - 1
    file.metadata = [*(file.metadata or []), entry]
