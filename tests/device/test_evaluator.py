"""The evaluator as a board runs it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.device.__main__ import main, normalize
from src.device.runtimes import dequantized, load, quantized
from tests.device.bundles import MEAN, STD, brightness, bundle, content_of, images, packed, write

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "device").glob("*.py"))
STANDARD = {"argparse", "ctypes", "datetime", "hashlib", "io", "json", "operator", "os", "pathlib", "platform", "re"}
STANDARD |= {"struct", "subprocess", "sys", "tempfile", "threading", "time", "typing", "zipfile", "zlib"}
RUNTIMES = {"onnxruntime", "tflite_runtime", "ai_edge_litert", "tensorflow", "openvino", "torch", "tensorrt"}
QUICK = ["--seconds", "0.02"]


def _old_python() -> str | None:
    """A Python 3.6 that starts and has numpy: the one that DNNC_PYTHON36 names, or one on the path."""
    found = os.environ.get("DNNC_PYTHON36") or shutil.which("python3.6")
    if found is None:
        return None
    started = subprocess.run([found, "-c", "import numpy"], capture_output=True, check=False)
    return found if started.returncode == 0 else None


OLD = _old_python()


def measured(path: Path, *arguments: str) -> dict:
    out = path.with_name("results.json")
    assert main([str(path), *QUICK, "--out", str(out), *arguments]) == 0
    return json.loads(out.read_text())


def run(python: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environment}
    command = [python, *arguments]
    return subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_source_is_python_3_6(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_only_the_standard_library_and_numpy_are_imported_and_runtimes_only_when_needed(path: Path) -> None:
    tree = ast.parse(path.read_text())
    allowed = STANDARD | {"numpy"}
    inner = {
        id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        within = RUNTIMES if id(node) in inner and path.stem in ("runtimes", "exported_program") else set()
        assert {name.partition(".")[0] for name in names} <= allowed | within


def test_a_known_network_is_measured_correctly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(bundle(tmp_path / "b.pyz"))
    (row,) = found["rows"]
    assert (row["name"], row["accuracy"], row["images"]) == ("net", 0.8, 5)
    assert row["size_bytes"] == len(brightness())
    assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p95"] <= row["latency_ms"]["p99"]
    assert row["latency_runs"] >= 50
    assert row["runtime"].startswith("onnxruntime ")
    assert (found["not_run"], found["threads"], found["format"]) == ([], 1, 1)
    assert re.fullmatch(r"[0-9a-f]{16}", found["bundle"])
    assert re.search(r"net +hand +80.00 % +\d+\.\d{3} ms", capsys.readouterr().out)


def test_a_file_that_takes_one_image_at_a_time_is_given_one(tmp_path: Path) -> None:
    assert measured(bundle(tmp_path / "b.pyz", {"net": {"net.onnx": brightness(1)}}))["rows"][0]["accuracy"] == 0.8


def test_a_file_that_takes_only_several_images_at_once_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle(tmp_path / "b.pyz", {"net": {"net.onnx": brightness(2)}})
    assert main([str(path), *QUICK, "--out", str(tmp_path / "r.json")]) == 2
    assert "it takes 2 images at once" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_the_number_of_images_can_be_limited(tmp_path: Path) -> None:
    assert measured(bundle(tmp_path / "b.pyz"), "--images", "2")["rows"][0]["images"] == 2


def test_normalization_is_that_of_training() -> None:
    pixels = images()[0]
    expected = (pixels / 255 - MEAN[0]) / STD[0]
    found = normalize(pixels, {"mean": MEAN, "std": STD})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_integers_are_made_by_scale_and_zero_point_and_back() -> None:
    values = np.array([-10, -0.26, 0, 0.24, 0.26, 100], np.float32)
    integers = quantized(values, np.int8, (0.5, -3))
    assert integers.tolist() == [-23, -4, -3, -3, -2, 127]
    assert integers.dtype == np.int8
    np.testing.assert_array_equal(dequantized(integers, (0.5, -3)), [-10, -0.5, 0, 0, 0.5, 65])
    np.testing.assert_array_equal(quantized(values, np.float32, (0.0, 0)), values)


def test_openvino_files_are_run_from_both_their_parts(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    (tmp_path / "net.onnx").write_bytes(brightness())
    openvino.save_model(openvino.convert_model(str(tmp_path / "net.onnx")), str(tmp_path / "net.xml"))
    parts = {name: (tmp_path / name).read_bytes() for name in ("net.xml", "net.bin")}
    found = measured(bundle(tmp_path / "b.pyz", {"net": parts}))
    assert found["rows"][0]["accuracy"] == 0.8
    assert found["rows"][0]["runtime"].startswith("openvino ")


def test_a_file_without_a_runtime_is_named_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    files = {"net": {"net.onnx": brightness()}, "other": {"net.tensorrt.onnx": brightness()}}
    found = measured(bundle(tmp_path / "b.pyz", files))
    assert [row["name"] for row in found["rows"]] == ["net"]
    assert [left["name"] for left in found["not_run"]] == ["other"]
    assert "tensorrt is not installed: it comes with JetPack" in found["not_run"][0]["reason"]
    assert re.search(r"other +hand +not run: tensorrt is not installed", capsys.readouterr().out)


@pytest.mark.parametrize("content", [b"", b"no network"], ids=["empty", "text"])
def test_a_file_that_is_no_model_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    files = {"net": {"net.onnx": brightness()}, "wrong": {"wrong.onnx": content}}
    out = tmp_path / "results.json"
    assert main([str(bundle(tmp_path / "b.pyz", files)), *QUICK, "--out", str(out)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("wrong is refused by its runtime: ")
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == ["net"]


def test_outputs_of_another_number_of_classes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bundle(tmp_path / "b.pyz", {"net": {"net.onnx": brightness(classes=3)}})
    assert main([str(path), *QUICK, "--out", str(tmp_path / "r.json")]) == 2
    assert "there are 2 classes" in capsys.readouterr().err


def test_nothing_is_written_if_no_model_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bundle(tmp_path / "b.pyz", {"net": {"net.tensorrt.onnx": brightness()}, "odd": {"net.h5": b""}})
    assert main([str(path), *QUICK, "--out", str(tmp_path / "r.json")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("None of the 2 models could be run: no runtime is known for '.h5' files; tensorrt is")
    assert {path.name for path in tmp_path.iterdir()} == {"b.pyz"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seconds", "0"], "--seconds must be more than 0"),
        (["--seconds", "nan"], "--seconds must be more than 0"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--images", "0"], "--images must be a number from 1"),
        (["--images", "some"], "--images must be a number from 1"),
        (["--out", "nowhere/r.json"], "--out must name a file in a folder that exists"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([str(bundle(tmp_path / "b.pyz")), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_missing_bundle_is_named_and_one_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere.pyz")]) == 2
    assert "There is no file" in capsys.readouterr().err
    assert main([]) == 2
    assert "name the bundle" in capsys.readouterr().err


def test_a_damaged_bundle_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, files = content_of({"net": {"net.onnx": brightness()}}, packed(*images()))
    files["models/net/net.onnx"] += b"\0"
    assert main([str(write(tmp_path / "b.pyz", content, files)), "--out", str(tmp_path / "r.json")]) == 2
    assert "another checksum" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_a_bundle_runs_by_itself(tmp_path: Path) -> None:
    done = run(sys.executable, str(bundle(tmp_path / "b.pyz")), *QUICK, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "device_results.json").read_text())["rows"][0]["accuracy"] == 0.8


@pytest.mark.skipif(OLD is None, reason="there is no python3.6 (DNNC_PYTHON36 names one)")
def test_a_bundle_runs_in_python_3_6(tmp_path: Path) -> None:
    done = run(str(OLD), str(bundle(tmp_path / "b.pyz")), *QUICK, cwd=tmp_path, LC_ALL="C")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "device_results.json").read_text())
    assert found["python"].startswith("3.6.")
    assert found["rows"][0]["accuracy"] == 0.8


@pytest.mark.skipif(OLD is None, reason="there is no python3.6 (DNNC_PYTHON36 names one)")
def test_python_3_6_says_which_runtimes_it_lacks(tmp_path: Path) -> None:
    files = {f"net{ending}": {f"net{ending}": b""} for ending in (".tflite", ".xml", ".pt2", ".tensorrt.onnx")}
    done = run(str(OLD), str(bundle(tmp_path / "b.pyz", files)), *QUICK, cwd=tmp_path)
    assert done.returncode == 2
    for name in ("a TFLite interpreter", "openvino", "torch", "tensorrt"):
        assert f"{name} is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "python", [sys.executable, pytest.param(OLD, marks=pytest.mark.skipif(OLD is None, reason="no 3.6"))]
)
def test_the_steps_of_the_jetsons_image_run(tmp_path: Path, python: str) -> None:
    """The steps of Dockerfile.jetson that copy, set and start, carried out without an image; nothing is installed."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile.jetson").read_text())
    default = re.search(r"^ARG BUNDLE=(.+)$", text, re.MULTILINE)
    assert default
    bundle(tmp_path / default.group(1))
    for source, to in re.findall(r"^COPY (\S+) (\S+)$", text, re.MULTILINE):
        from_here = tmp_path / default.group(1) if source == "${BUNDLE}" else ROOT / source
        target = tmp_path / "image" / to.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if from_here.is_dir() else shutil.copy)(from_here, target)
    settings = dict(pair.split("=") for line in re.findall(r"^ENV (.+)$", text, re.MULTILINE) for pair in line.split())
    settings["PYTHONPATH"] = str(tmp_path / "image") + settings["PYTHONPATH"]
    start = re.search(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)
    assert start
    program, *arguments = json.loads(start.group(1))
    assert program == "python3"
    arguments = [str(tmp_path / "image") + word if word.startswith("/") else word for word in arguments]
    done = run(python, *arguments, *QUICK, cwd=tmp_path, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "device_results.json").read_text())["rows"][0]["accuracy"] == 0.8


def test_loading_names_the_runtime_and_the_batch(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(brightness())
    runtime = {"name": "onnxruntime", "provider": None, "stands_in_for": None}
    loaded = load(tmp_path / "net.onnx", runtime, ["float32"], (1, 2, 2), 1)
    assert loaded.batch is None
    (tmp_path / "one.onnx").write_bytes(brightness(1))
    assert load(tmp_path / "one.onnx", runtime, ["float32"], (1, 2, 2), 1).batch == 1
