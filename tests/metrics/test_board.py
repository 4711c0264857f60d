"""Which files fit which board, on real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from src.contracts import NotExportableError, Precision, Runtime
from src.deploy.onnxruntime import OnnxRuntime
from src.metrics.board import Board
from tests.exported import CARD, TARGETS, cnn, images

ANY = Board(name="any", memory_bytes=None, weights_in_memory=True, storage_bytes=None, runtimes=None, arithmetic=None)
TARGET = TARGETS["onnxruntime"]
FLOAT32, INT8 = Precision(("float32",)), Precision(("int8",))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return TARGET.export(cnn(), images(1), tmp_path_factory.mktemp("board") / "model.onnx", CARD, {})


def test_a_board_without_limits_takes_everything(parts: tuple[Path, ...]) -> None:
    ANY.check(TARGET, parts)
    assert ANY.remarks(INT8) == []


def test_a_file_larger_than_the_storage_is_refused_with_its_largest_weight(parts: tuple[Path, ...]) -> None:
    size = parts[0].stat().st_size
    replace(ANY, storage_bytes=size).check(TARGET, parts)
    with pytest.raises(NotExportableError, match=f"does not fit board any: {size:,} bytes.*features.4/Conv needs most"):
        replace(ANY, storage_bytes=size - 1).check(TARGET, parts)


def test_memory_is_weights_and_live_activations_unless_weights_stay_in_storage(parts: tuple[Path, ...]) -> None:
    from src.metrics.graph import peak_activation_bytes, weight_bytes

    graph = TARGET.graph(parts[0])
    activations, needed = peak_activation_bytes(graph), peak_activation_bytes(graph) + weight_bytes(graph)
    replace(ANY, memory_bytes=needed).check(TARGET, parts)
    with pytest.raises(NotExportableError, match=f"it needs {needed:,} bytes of memory"):
        replace(ANY, memory_bytes=needed - 1).check(TARGET, parts)
    in_place = replace(ANY, memory_bytes=activations, weights_in_memory=False)
    in_place.check(TARGET, parts)
    with pytest.raises(NotExportableError, match=r"features.0/Conv needs most, [\d,]+ bytes"):
        replace(in_place, memory_bytes=activations - 1).check(TARGET, parts)


def test_a_runtime_that_the_board_lacks_is_refused(parts: tuple[Path, ...]) -> None:
    with pytest.raises(NotExportableError, match="board any runs tflite, torch, and not onnxruntime"):
        replace(ANY, runtimes=["tflite", "torch"]).check(TARGET, parts)


def test_a_board_without_units_for_int8_says_that_int8_is_not_faster() -> None:
    board = replace(ANY, arithmetic=["float32", "float16"])
    (line,) = board.remarks(INT8)
    assert "no unit for int8 (float32, float16)" in line
    assert "makes nothing faster" in line
    assert board.remarks(Precision(("int8", "bf16"), ("float16",))) == [line]


def test_a_board_has_no_remark_on_a_file_that_computes_in_floats() -> None:
    board = replace(ANY, arithmetic=["float32", "float16"])
    assert board.remarks(FLOAT32) == []
    assert board.remarks(Precision(("float32",), ("int8",))) == []  # it stores integers and computes in floats
    assert replace(board, arithmetic=["float32", "int8"]).remarks(INT8) == []


def test_a_board_is_asked_for_the_runtime_that_a_file_is_for_and_not_for_the_one_that_stands_in(
    parts: tuple[Path, ...],
) -> None:
    class StoodIn(OnnxRuntime):
        runtime = Runtime("onnxruntime", stands_in_for="tensorrt")

    target = StoodIn(provider="CPUExecutionProvider", stored="float32")
    replace(ANY, runtimes=["tensorrt"]).check(target, parts)
    with pytest.raises(NotExportableError, match="board any runs onnxruntime, and not tensorrt"):
        replace(ANY, runtimes=["onnxruntime"]).check(target, parts)


def test_the_provider_of_a_runtime_does_not_matter_to_a_board(parts: tuple[Path, ...]) -> None:
    target = OnnxRuntime(provider="CUDAExecutionProvider", stored="float32")
    replace(ANY, runtimes=["onnxruntime"]).check(target, parts)
