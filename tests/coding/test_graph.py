"""The inference graph as data: ONNX files come back as files that compute the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from src.coding.container import pack, read, unpack
from src.coding.errors import DnncError
from src.coding.graph import from_onnx
from src.device import packed
from src.device.packed_graph import card_of, graph_of, onnx_bytes
from src.device.packed_streams import PackedError, number_bytes
from src.device.vocabulary import OPERATORS
from tests.coding.examples import pruned, shared

ROOT = Path(__file__).parent.parent.parent
CARD = {"classes": json.dumps(["a", "ü"]), "mean": "[0.5]"}


def model(nodes: list[onnx.NodeProto], stored: Mapping[str, np.ndarray], output: str) -> onnx.ModelProto:
    """A model from images ``[n, 1, 8, 8]`` to ``output``."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(made, CARD)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A residual network of convolutions with a constant in it and a weight that is used twice."""
    draws = np.random.default_rng(0)
    stored = {
        "conv.weight": draws.normal(0, 1, (4, 1, 3, 3)).astype(np.float32),
        "conv.bias": draws.normal(0, 1, 4).astype(np.float32),
        "twice.weight": shared(pruned(4, 36, 0.5).reshape(4, 4, 3, 3), 5),
        "fc.weight": pruned(2, 64, 0.4),
    }
    shape = numpy_helper.from_array(np.array([0, -1]), "shape")
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight", "conv.bias"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "twice.weight"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["b"], ["c"], alpha=0.125),
        helper.make_node("Conv", ["c", "twice.weight"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["d", "a"], ["e"]),
        helper.make_node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Reshape", ["f", "shape"], ["g"]),
        helper.make_node("Gemm", ["g", "fc.weight"], ["logits"], transB=1),
    ]
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, stored, "logits"), str(path))
    return path


def logits(onnx_file: bytes | str) -> np.ndarray:
    images = np.random.default_rng(1).normal(0, 1, (3, 1, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


@pytest.mark.parametrize("profile", packed.PROFILES)
def test_an_onnx_file_comes_back_with_the_same_logits_and_card(file: Path, profile: str) -> None:
    tensors, graph, card = from_onnx(file)
    back = unpack(pack(tensors, profile, card=card, graph=graph))
    rebuilt = onnx_bytes(back)
    onnx.checker.check_model(onnx.load_from_string(rebuilt))
    assert np.array_equal(logits(rebuilt), logits(str(file)))
    assert card_of(back) == {key: json.loads(value) for key, value in CARD.items()}
    assert {prop.key: json.loads(prop.value) for prop in onnx.load_from_string(rebuilt).metadata_props} == card_of(back)
    assert len(graph) < 120


def test_a_graph_that_cannot_be_is_refused(file: Path) -> None:
    tensors, graph, _ = from_onnx(file)
    content = pack(tensors, "fast", graph=graph)
    known = unpack(content)
    head = number_bytes(13) + number_bytes(8) + b"\1" + bytes([1, 1, 0]) + b"\1"
    broken = {
        "operator": head + number_bytes(len(OPERATORS)) + b"\0\0\0",
        "nothing before it gives": head + b"\0" + number_bytes(4) + number_bytes(2 + 1 + 99) + b"\0\0",
        "attribute": head + b"\0\0\1" + number_bytes(16 * 5000 + 2) + b"\0\0",
        "cut off": graph[:-3],
        "longer": graph + b"\0",
    }
    for says, wrong in broken.items():
        with pytest.raises(PackedError, match=says):
            graph_of(known._replace(graph=wrong))


def test_what_is_no_operator_of_the_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    onnx.save(model([helper.make_node("Mine", ["image"], ["y"], domain="org.mine")], {}, "y"), str(path))
    with pytest.raises(DnncError, match="operator Mine"):
        from_onnx(path)


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_doors_pack_and_unpack_an_onnx_file(file: Path, tmp_path: Path) -> None:
    to, back, bare = (str(tmp_path / name) for name in ("net.dnnc", "back.onnx", "bare.safetensors"))
    packs = run("src.pack", str(file), "--to", to, "--profile", "board")
    assert packs.returncode == 0, packs.stderr
    assert run("src.unpack", to, "--to", back).returncode == 0
    assert np.array_equal(logits(back), logits(str(file)))
    stat = run("src.unpack", to, "--stat").stdout
    assert "twice.weight" in stat
    assert "codebook" in stat
    assert run("src.unpack", to, "--to", bare).returncode == 0
    assert run("src.pack", bare).returncode == 0
    refused = run("src.unpack", str(tmp_path / "bare.dnnc"), "--to", back)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "packed from bare weights and has no graph" in refused.stderr
    assert read(tmp_path / "bare.dnnc").tensors.keys() == read(Path(to)).tensors.keys()


def test_packing_does_not_load_torch(file: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from src.command.packing import pack_file, unpack_file\n"
        f"pack_file(Path({str(file)!r}), Path({str(tmp_path / 'a.dnnc')!r}), 'fast', 'bits')\n"
        f"unpack_file(Path({str(tmp_path / 'a.dnnc')!r}), Path({str(tmp_path / 'a.safetensors')!r}))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
