"""What fits which board, judged on real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from src.contracts import NotExportableError as InputError
from src.metrics.board import Board
from tests.deploy.conftest import CARD, TARGETS, cnn, images

ANY = Board(name="any", memory_bytes=None, weights_in_memory=True, storage_bytes=None, runtimes=None, arithmetic=None)
TARGET = TARGETS["onnxruntime"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return TARGET.export(cnn(), images(1), tmp_path_factory.mktemp("board") / "model.onnx", CARD, {})


def test_a_board_without_limits_takes_everything(parts: tuple[Path, ...]) -> None:
    ANY.check(TARGET, parts)
    assert ANY.remarks("int8") == []


def test_a_file_larger_than_the_storage_is_refused_with_its_largest_weight(parts: tuple[Path, ...]) -> None:
    size = parts[0].stat().st_size
    replace(ANY, storage_bytes=size).check(TARGET, parts)
    with pytest.raises(InputError, match=f"does not fit board any: {size:,} bytes.*features.4/Conv needs most"):
        replace(ANY, storage_bytes=size - 1).check(TARGET, parts)


def test_memory_is_weights_and_live_activations_unless_weights_stay_in_storage(parts: tuple[Path, ...]) -> None:
    from src.metrics.graph import peak_activation_bytes, weight_bytes

    graph = TARGET.graph(parts[0])
    activations, needed = peak_activation_bytes(graph), peak_activation_bytes(graph) + weight_bytes(graph)
    replace(ANY, memory_bytes=needed).check(TARGET, parts)
    with pytest.raises(InputError, match=f"it needs {needed:,} bytes of memory"):
        replace(ANY, memory_bytes=needed - 1).check(TARGET, parts)
    in_place = replace(ANY, memory_bytes=activations, weights_in_memory=False)
    in_place.check(TARGET, parts)
    with pytest.raises(InputError, match=r"features.0/Conv needs most, [\d,]+ bytes"):
        replace(in_place, memory_bytes=activations - 1).check(TARGET, parts)


def test_a_runtime_that_the_board_lacks_is_refused(parts: tuple[Path, ...]) -> None:
    with pytest.raises(InputError, match="board any runs tflite, torch, and not onnxruntime"):
        replace(ANY, runtimes=["tflite", "torch"]).check(TARGET, parts)


def test_int8_where_no_unit_computes_it_is_called_smaller_not_faster() -> None:
    board = replace(ANY, arithmetic=["float32", "float16"])
    assert board.remarks("float32") == []
    (said,) = board.remarks("int8")
    assert "no unit for int8" in said
    assert "makes nothing faster" in said
