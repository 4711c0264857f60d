"""The TFLite writer, on a graph of one dense layer that is made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.contracts import StoredWeight
from src.deploy import tflite_file as written

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

WEIGHT = np.array([[1.0, -0.5, 0.25], [0.0, 2.0, -1.0]], np.float32)
BIAS = np.array([0.5, -0.5], np.float32)
IMAGE = np.array([[1.0, 2.0, 4.0]], np.float32)
LOGITS = IMAGE @ WEIGHT.T + BIAS  # [[1.5, -0.5]]
# The same weight as integers of 4 bits, a scale and a zero point for each output.
STORED = StoredWeight(
    torch.tensor([[4, -2, 1], [3, 7, 1]], dtype=torch.int32),
    4,
    torch.tensor([0.25, 0.5]),
    torch.tensor([0, 3], dtype=torch.int32),
)


def tensor(file: Any, shape: list[int], array: np.ndarray | None, name: str) -> int:
    """Add a float tensor, an activation if ``array`` is None; return its index."""
    added = schema.TensorT()
    added.shape, added.type, added.name = np.array(shape, np.int32), schema.TensorType.FLOAT32, name.encode()
    added.buffer = 0
    if array is not None:
        held = schema.BufferT()
        held.data = np.frombuffer(array.tobytes(), np.uint8)
        file.buffers.append(held)
        added.buffer = len(file.buffers) - 1
    file.subgraphs[0].tensors.append(added)
    return len(file.subgraphs[0].tensors) - 1


def dense() -> Any:
    """A file of ``image @ WEIGHT.T + BIAS``, and a stored tensor that nothing uses."""
    file, graph, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    file.version, file.subgraphs, file.operatorCodes, file.buffers = 3, [graph], [code], [schema.BufferT()]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    graph.tensors = []
    image = tensor(file, [1, 3], None, "serving_default_args_0")
    tensor(file, [1], np.array([7.0], np.float32), "unused")
    weight = tensor(file, [2, 3], WEIGHT, "wrapper/Net_net_wrapped/torch.nn.Sequential_classifier/torch.nn.Linear_5;")
    bias = tensor(file, [2], BIAS, "bias")
    logits = tensor(file, [1, 2], None, "StatefulPartitionedCall")
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [image, weight, bias], [logits]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators, graph.inputs, graph.outputs = [operator], [image], [logits]
    return file


def computed(file: Any, folder: Path, image: np.ndarray = IMAGE) -> np.ndarray:
    """The logits of the packed file in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    (folder / "m.tflite").write_bytes(written.packed(file))
    interpreter = Interpreter(str(folder / "m.tflite"))
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], image.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    result: np.ndarray = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


def names(file: Any) -> list[str]:
    return [each.name.decode() for each in file.subgraphs[0].tensors]


def kinds(file: Any) -> list[str]:
    return [written.kind_of(file, operator) for operator in file.subgraphs[0].operators]


def test_a_file_that_is_parsed_and_packed_is_the_same() -> None:
    content = written.packed(dense())
    assert content[4:8] == b"TFL3"
    assert written.packed(written.parsed(content)) == content


def test_parsed_objects_hold_what_was_packed(tmp_path: Path) -> None:
    file = written.parsed(written.packed(dense()))
    assert kinds(file) == ["FULLY_CONNECTED"]
    (operator,) = file.subgraphs[0].operators
    weight, bias = (file.subgraphs[0].tensors[index] for index in operator.inputs[1:])
    np.testing.assert_array_equal(written.array_of(file, weight), WEIGHT)
    np.testing.assert_array_equal(written.array_of(file, bias), BIAS)
    assert written.array_of(file, file.subgraphs[0].tensors[operator.inputs[0]]) is None
    assert written.readers_of(file, operator.inputs[1]) == [operator]
    np.testing.assert_allclose(computed(file, tmp_path), LOGITS)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FLOAT32", "float32"),
        ("FLOAT16", "float16"),
        ("INT8", "int8"),
        ("UINT8", "uint8"),
        ("INT16", "int16"),
        ("INT32", "int32"),
        ("INT64", "int64"),
        ("BOOL", "bool"),
    ],
)
def test_types_of_the_format_have_their_type_of_numpy(kind: str, dtype: str) -> None:
    made = schema.TensorT()
    made.type = getattr(schema.TensorType, kind)
    assert written.dtype_of(made) == np.dtype(dtype)


def test_stored_weights_become_integers_behind_a_dequantization(tmp_path: Path) -> None:
    file = dense()
    written.store_integers(file, {"classifier.5.weight": STORED}, dynamic=False)
    assert kinds(file) == ["DEQUANTIZE", "FULLY_CONNECTED"]
    stored = file.subgraphs[0].tensors[file.subgraphs[0].operators[0].inputs[0]]
    np.testing.assert_array_equal(written.array_of(file, stored), [[4, -2, 1], [3, 7, 1]])
    assert (list(stored.quantization.scale), list(stored.quantization.zeroPoint)) == ([0.25, 0.5], [0, 3])
    np.testing.assert_allclose(computed(file, tmp_path), LOGITS)


def test_a_dense_layer_that_quantizes_its_input_itself_holds_the_integers_without_a_dequantization() -> None:
    symmetric = StoredWeight(torch.tensor([[4, -2, 1], [0, 4, -2]], dtype=torch.int32), 8, STORED.scale, torch.zeros(2))
    file = dense()
    written.store_integers(file, {"weight": symmetric}, dynamic=True)
    assert kinds(file) == ["FULLY_CONNECTED"]
    (operator,) = file.subgraphs[0].operators
    weight = file.subgraphs[0].tensors[operator.inputs[1]]
    np.testing.assert_array_equal(written.array_of(file, weight), [[4, -2, 1], [0, 4, -2]])
    assert operator.builtinOptions.asymmetricQuantizeInputs
    assert file.operatorCodes[0].version == 9


def test_integers_of_other_weights_and_of_more_than_8_bits_leave_a_layer_as_it_is() -> None:
    other = StoredWeight(STORED.integers, 4, 2 * STORED.scale, STORED.zero_point)
    wide = StoredWeight(STORED.integers, 9, STORED.scale, STORED.zero_point)
    file, content = dense(), written.packed(dense())
    written.store_integers(file, {"other": other, "wide": wide}, dynamic=False)
    assert written.packed(file) == content


def test_weights_and_biases_become_halves_behind_dequantizations(tmp_path: Path) -> None:
    file = dense()
    written.store_halves(file)
    assert kinds(file) == ["DEQUANTIZE", "DEQUANTIZE", "FULLY_CONNECTED"]
    sources = [file.subgraphs[0].tensors[operator.inputs[0]] for operator in file.subgraphs[0].operators[:2]]
    assert [written.array_of(file, each).dtype for each in sources] == [np.float16, np.float16]
    np.testing.assert_allclose(computed(file, tmp_path), LOGITS)


def test_what_nothing_uses_is_dropped_with_its_values(tmp_path: Path) -> None:
    file = dense()
    before = (len(file.subgraphs[0].tensors), len(file.buffers))
    written.drop_unused(file)
    assert (len(file.subgraphs[0].tensors), len(file.buffers)) == (before[0] - 1, before[1] - 1)
    assert "unused" not in names(file)
    np.testing.assert_allclose(computed(file, tmp_path), LOGITS)


def test_weights_are_named_after_their_layer_and_the_rest_by_numbers() -> None:
    file = dense()
    written.shorten_names(file)
    assert names(file) == ["image", "t1", "classifier.5", "t3", "logits"]


def test_a_free_batch_takes_several_images(tmp_path: Path) -> None:
    file = dense()
    written.free_batch(file)
    signatures = {each.name.decode(): each.shapeSignature for each in file.subgraphs[0].tensors}
    assert list(signatures["serving_default_args_0"]) == [-1, 3]
    assert signatures["bias"] is None
    several = np.concatenate([IMAGE, -IMAGE, 2 * IMAGE])
    np.testing.assert_allclose(computed(file, tmp_path, several), several @ WEIGHT.T + BIAS)


def test_metadata_is_kept_beside_what_the_file_holds(tmp_path: Path) -> None:
    file = dense()
    written.add_metadata(file, b"first")
    file = written.parsed(written.packed(file))
    assert [(entry.name, bytes(file.buffers[entry.buffer].data)) for entry in file.metadata] == [
        (written.METADATA, b"first")
    ]
    written.drop_unused(file)
    assert bytes(file.buffers[file.metadata[0].buffer].data) == b"first"
    np.testing.assert_allclose(computed(file, tmp_path), LOGITS)
