"""What must hold for every file in conf/method, on several architectures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from src.command import CONF
from src.models.build import build_model
from src.models.weights import load_weights
from src.stages.store import WEIGHTS
from tests.plans import experiment, plan

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
CHANGING = [name for name in METHODS if name not in ("baseline", "chain")]
MODELS = {
    "mlp": ["model=lenet300"],
    "cnn": ["model=small_cnn", "model.blocks=[[8],[16]]", "model.dense=32"],
    "resnet": ["model=resnet20", "model.depth=8"],
    "mobilenet": ["model=mobilenetv2", "model.width=0.25"],
    "own": ["model=custom", "model._target_=tests.methods.test_conformance.Own"],
}
# make test takes a sample; CONFORMANCE=all runs every method on every architecture.
PAIRS = [(method, model) for method in CHANGING for model in MODELS]
SAMPLE = [pair for pair in PAIRS if pair[1] in ("cnn", "own") or pair[0] == "prune_quantize"]


class Own(nn.Module):
    """A user's module: a concatenation, a layer used twice, batch norm."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.stem(images))
        again = self.twice(torch.relu(self.twice(hidden)))
        joined = torch.relu(self.bn(torch.cat([hidden, again], 1)))
        return self.fc(joined.mean((2, 3)))


@pytest.mark.parametrize(("method", "model"), PAIRS if os.environ.get("CONFORMANCE") == "all" else SAMPLE)
def test_a_method_changes_the_model_and_what_ships_does_the_same(method: str, model: str, tmp_path: Path) -> None:
    made = experiment(plan(f"method={method}", *MODELS[model]), tmp_path)
    base, row = made.run()
    record = made.store.find(row.identity)
    assert record is not None

    # It changed the model.
    baseline = build_model(made.plan.model.value, made.plan.data.value.load(), 0)
    load_weights(baseline, made.store.folder(base.identity) / WEIGHTS)
    assert row.identity != base.identity
    assert row.sha256 != base.sha256

    # What is asked is met.
    if "prune" in method:
        counts = [(round(layer["sparsity"] * layer["parameters"]), layer["parameters"]) for layer in record["layers"]]
        assert sum(c for c, _ in counts) == pytest.approx(0.8 * sum(n for _, n in counts), abs=len(counts))
    if "quantize" in method:
        assert {layer["bits"] for layer in record["layers"]} == {8}
        assert row.precision == "int8"

    # The exported file agrees with torch.
    assert abs(row.accuracy - row.accuracy_torch) <= 2 / 60

    # Saved, found again and rebuilt: the same outputs to the bit, so the same file.
    again = experiment(made.plan, tmp_path)
    exported = [path for path in (tmp_path / "artifacts").iterdir() if list(path.glob("*.onnx"))]
    files = {path.name: (path / "model.onnx").read_bytes() for path in exported}
    for path in exported:
        (path / "stage.json").unlink()
    assert [found.sha256 for found in again.run()] == [base.sha256, row.sha256]
    assert {name: (tmp_path / "artifacts" / name / "model.onnx").read_bytes() for name in files} == files


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    made = [experiment(plan("method=prune_quantize", *MODELS["cnn"]), tmp_path / name) for name in ("one", "two")]
    rows = [one.run()[1] for one in made]
    assert rows[0].identity == rows[1].identity
    from safetensors.numpy import load_file

    first, second = (load_file(one.store.folder(rows[0].identity) / WEIGHTS) for one in made)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_survey_of_methods_is_the_list_of_files_in_conf() -> None:
    assert {"baseline", "prune_magnitude", "quantize_int8", "chain"} <= set(METHODS)
