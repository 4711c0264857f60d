"""Reading ONNX files: their graph as measuring sees it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from src.contracts import Graph, GraphNode, GraphTensor, InputError, Role, first_line
from src.deploy import counting

ROLES = {
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout"), Role.MOVING),
    **dict.fromkeys(("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"), Role.IN_PLACE),
    **dict.fromkeys(("Add", "Mul", "Cast", "BatchNormalization"), Role.IN_PLACE),
    **dict.fromkeys(("MaxPool", "Slice", "Split", "Transpose", "Concat", "Pad", "Gather"), Role.POOLING),
    "QuantizeLinear": Role.QUANTIZE,
    "DequantizeLinear": Role.DEQUANTIZE,
}
SELECTING = ("Gather", "GatherElements", "GatherND", "Concat")  # their output is a part of their input, or contains it


def read(path: Path) -> onnx.ModelProto:
    """Read the file; raise InputError if it is no ONNX file."""
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's and onnx's exceptions have no common public base class
        raise InputError(f"{path} is no ONNX file: {first_line(error)}") from error


def read_graph(path: Path, floats: Collection[str] = ()) -> Graph:
    """Read the file's operations and tensors at batch 1.

    Shapes are taken from a run on one image, so that none has to be inferred.

    Args:
        path: The file.
        floats: Names of the nodes that the runtime computes in floats, whatever the file says.
    """
    graph = read(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    activations = activations_of(read(path), 1)
    for node in graph.node:
        if node.op_type == "Shape":  # its value is known before an image comes
            constants[node.output[0]] = activations[node.output[0]]
    tensors = {name: GraphTensor(array.size, array.nbytes) for name, array in activations.items()}
    for name, array in constants.items():
        tensors[name] = GraphTensor(array.size, array.nbytes, int(np.count_nonzero(array)))
    shapes = {name: array.shape for name, array in {**activations, **constants}.items()}
    others = quantization_parameters(graph)
    others |= {name for node in graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    weights = [t.name for t in graph.initializer if t.data_type != onnx.TensorProto.INT64 and t.name not in others]
    weighted = {name for name in weights if tensors[name].elements > 1}
    nodes = []
    for node in graph.node:
        if node.op_type in ("Constant", "Shape"):
            continue
        stored = all(name in constants or name in weighted for name in node.input)
        if stored:
            weighted.update(node.output)  # the results of an operation on weights are weights
        made = tuple(name for name in node.output if name)
        role, macs = ROLES.get(node.op_type, Role.COMPUTE), 0 if stored else _macs(node, shapes, weighted)
        nodes.append(GraphNode(tuple(node.input), made, role, macs, node.name, node.name in floats))
    inputs = [value.name for value in graph.input if value.name not in constants]
    return Graph(tuple(nodes), tensors, tuple(weights), tuple(inputs), tuple(value.name for value in graph.output))


def quantization_parameters(graph: onnx.GraphProto) -> set[str]:
    """Names of the stored scales, zero points and limits, which do not count as parameters of the network."""
    quantizing = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    found = {name for node in quantizing for name in node.input[1:]}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            found.update(node.input[2:])
        elif node.op_type == "Clip":  # its limits
            found.update(node.input[1:])
        elif node.op_type == "Mul":  # the scale of an integer product
            cast = made_by.get(node.input[0])
            product = made_by.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
            if product is not None and product.op_type == "MatMulInteger":
                found.add(node.input[1])
    return found


def activations_of(model: onnx.ModelProto, batch: int, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Run the graph, as it is written, on ``batch`` images of zeros.

    Args:
        model: The graph; it is not changed.
        batch: Number of images.
        only: Names of the activations that are wanted; None wants all of them.

    Returns:
        Activations by name, the image included.
    """
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    image = watched.graph.input[0]
    shape = [batch, *(dim.dim_value for dim in image.type.tensor_type.shape.dim[1:])]
    named = {value.name for value in watched.graph.output}
    made = [name for node in watched.graph.node for name in node.output if name and (only is None or name in only)]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made if name not in named)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    zeros = np.zeros(shape, np.float32)
    names = [output.name for output in session.get_outputs()]
    return {image.name: zeros, **dict(zip(names, session.run(names, {image.name: zeros}), strict=True))}


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]], weighted: set[str]) -> int | None:
    """Multiply-accumulates of a node; None if it has weights and is of an unknown kind."""
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    given = [shapes.get(name, ()) for name in node.input]
    made = next(shapes[name] for name in node.output if name)
    if node.op_type == "Conv":
        return counting.convolution(made, given[1])
    if node.op_type == "ConvTranspose":
        return counting.transposed_convolution(given[0], given[1])
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger"):
        return counting.product(made, given[0][-2 if settings.get("transA") else -1])
    if node.op_type in ("GRU", "LSTM", "RNN"):
        return counting.recurrence(given[0][0] * given[0][1], given[1:3])
    if node.op_type == "Einsum":
        return counting.einsum(settings["equation"].decode(), given)
    if node.op_type in SELECTING or all(name in weighted for name in node.input):
        return 0
    unknown = [shapes[name] for name in node.input if name in weighted]
    return 0 if all(counting.is_spread(shape, made) for shape in unknown) else None
