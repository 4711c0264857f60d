"""Whatever happened to the files of a run or of the store: the figures of a row are those of the file beside it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from sklearn.datasets import load_digits

from src.stages.store import WEIGHTS
from tests.commands import Commands
from tests.conftest import mounted

FAST = ["method=baseline", "training.epochs=2", "training.batch_size=128", "model.blocks=[[8],[16]]", "model.dense=256"]
FILE = "baseline.onnxruntime.onnx"


@pytest.fixture
def commands(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capfd, monkeypatch)


def row_of(folder: Path) -> dict[str, Any]:
    (row,) = json.loads((folder / "results.json").read_text())["rows"]
    return row


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def classes_of(path: Path) -> np.ndarray:
    """What a file says of each digit, as its runtime computes it."""
    images = (load_digits().images[:, None] / 16 - 0.3064) / 0.3763
    return onnxruntime.InferenceSession(str(path)).run(None, {"image": images.astype(np.float32)})[0].argmax(1)


def spoil(path: Path) -> None:
    """Set the weights of an ONNX file to zero, in place, and give it its old time; its size stays, too."""
    before = path.stat()
    path.chmod(0o644)
    model = onnx.load(str(path))
    for weight in model.graph.initializer:
        zeros = np.zeros_like(numpy_helper.to_array(weight))
        weight.CopyFrom(numpy_helper.from_array(zeros, weight.name))
    with path.open("r+b") as file:
        file.write(model.SerializeToString())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize("where", ["run", "store"])
def test_an_edited_file_is_never_found_again(commands: Commands, where: str) -> None:
    _, first = commands.run(*FAST)
    (stored,) = commands.artifacts.glob("*/model.onnx")
    expected = classes_of(first / FILE)
    spoil(first / FILE if where == "run" else stored)
    said, second = commands.run(*FAST)
    assert said.code == 0, said.err
    row = row_of(second)
    assert row["sha256"] == sha256(second / FILE)
    assert row["accuracy"] == row_of(first)["accuracy"]
    assert (classes_of(second / FILE) == expected).all()
    damaged = f"model.onnx of stage {stored.parent.name} is damaged; the stage is made anew."
    assert (damaged in said.out) == (where == "store")
    assert ("files found again" in said.out) == (where == "run")


def test_edited_weights_are_trained_anew(commands: Commands) -> None:
    _, first = commands.run(*FAST)
    weights = commands.artifacts / row_of(first)["identity"] / WEIGHTS
    before, sound = weights.stat(), sha256(weights)
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.seek(-400, os.SEEK_END)
        file.write(bytes(400))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    said, _ = commands.run(*FAST)
    assert said.code == 0, said.err
    assert f"{WEIGHTS} of stage {weights.parent.name} is damaged; the stage is made anew." in said.out
    assert "baseline trained" in said.out
    assert sha256(weights) == sound


def test_a_read_only_store_serves_what_it_has_and_refuses_the_rest_in_one_line(commands: Commands) -> None:
    _, first = commands.run(*FAST)
    for folder in mounted(commands.artifacts, "--bind", "-o", "ro", str(commands.artifacts)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        said, second = commands.run(*FAST)
        assert said.code == 0, said.err
        assert "baseline found again" in said.out
        assert row_of(second) == row_of(first)
        said, _ = commands.run(*FAST, "seed=1")
    assert said.code == 2
    assert said.err.startswith(f"{commands.artifacts}: stage ")
    assert "must be made, and nothing can be written here" in said.err
    assert len(said.err.splitlines()) == 1


def fill(folder: Path, *, left: int) -> None:
    """Leave ``left`` bytes of the disk of ``folder``."""
    status = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - left))


def test_a_full_disk_of_the_outputs_is_called_by_its_name(commands: Commands, full_disk: Path) -> None:
    fill(full_disk, left=40 * 1024)
    out = full_disk / "out"
    where = [f"hydra.run.dir={out}", f"artifacts={commands.artifacts}", "tracking=off", "training.threads=1"]
    said = commands.call("run", *FAST, *where)
    assert (said.code, said.err) == (2, f"{out}: the disk is full\n")
    assert not list(full_disk.rglob("*.onnx*"))
    (full_disk / "filler").unlink()
    said, _ = commands.run(*FAST)
    assert "baseline found again" in said.out


def test_a_full_disk_of_the_store_is_called_by_its_name_and_keeps_no_half_file(
    commands: Commands, full_disk: Path
) -> None:
    fill(full_disk, left=130 * 1024)
    commands.artifacts = full_disk / "artifacts"
    said, _ = commands.run(*FAST)
    assert said.code == 2
    assert said.err.startswith(f"{commands.artifacts}/")
    assert said.err.endswith(": the disk is full\n")
    assert len(said.err.splitlines()) == 1
    assert {path.suffix for path in commands.artifacts.rglob("*.*") if path.is_file()} <= {".ckpt", ".txt"}
