"""What must hold for every file in conf/method, on several architectures, alone and after each other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file
from torch import nn

from src.command.composition import composed
from src.command.exits import CONF
from src.contracts import Method, Row
from src.methods.chain import Chain
from src.primitives.distributions import Layerwise
from src.stages.store import WEIGHTS
from tests.plans import Tried, experiment, plan
from tests.processor import SATURATES

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
CHANGING = [name for name in METHODS if name not in ("baseline", "chain")]
CHAINS = [name for name in CHANGING if composed([f"method={name}"])[0]["method"]["_target_"].endswith(".Chain")]
STEPS = [name for name in CHANGING if name not in CHAINS]
ENDING = [name for name in STEPS if name.startswith("quantize_")]
MODELS = {
    "mlp": ["model=lenet300"],
    "cnn": ["model=small_cnn", "model.blocks=[[16],[32]]", "model.dense=32"],
    "resnet": ["model=resnet20", "model.depth=8"],
    "mobilenet": ["model=mobilenetv2", "model.width=0.25", "training.optimizer.lr=0.005"],  # diverges at the others'
    "own": ["model=custom", "model._target_=tests.methods.test_conformance.Own"],
}
# Globally, its scores of an untrained network empty whole layers, whose batch normalization then divides by nothing.
MORE = {("prune_hessian", "mobilenet"): ["method.distribution._target_=src.primitives.distributions.Layerwise"]}
# make test takes a sample; CONFORMANCE=all, as .ci/run has it, runs every method on every architecture and all pairs.
ALL = os.environ.get("CONFORMANCE") == "all"
EVERY = [(method, model) for method in CHANGING for model in MODELS]
SMALL = [name for name in MODELS if name != "mobilenet"]  # takes as long as the others together
SAMPLE = [(method, SMALL[at % len(SMALL)]) for at, method in enumerate(CHANGING[::3])]
PAIRS = [(first, second) for first in STEPS for second in STEPS if first not in ENDING]
FEW = [("cluster", "prune_magnitude"), ("prune_channels", "prune_magnitude"), ("low_rank", "quantize_int8")]


class Own(nn.Module):
    """A user's module: a concatenation, a layer used twice, batch norm."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(32)
        self.hidden = nn.Linear(32, 32)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.stem(images))
        again = self.twice(torch.relu(self.twice(hidden)))
        joined = torch.relu(self.bn(torch.cat([hidden, again], 1)))
        return self.fc(torch.relu(self.hidden(joined.mean((2, 3)))))


def layers(made: Tried, identity: str) -> list[dict[str, Any]]:
    record = made.store.find(identity)
    assert record is not None
    return list(record["layers"])


def zeros(described: list[dict[str, Any]]) -> int:
    return sum(round(layer["sparsity"] * layer["parameters"]) for layer in described)


def parameters(described: list[dict[str, Any]]) -> int:
    return sum(layer["parameters"] for layer in described)


def weights_in(file: Path) -> list[np.ndarray]:
    """The weight tensors of an ONNX file, floats or integers."""
    initializers = onnx.load(str(file)).graph.initializer
    return [numpy_helper.to_array(tensor) for tensor in initializers if len(tensor.dims) > 1]


def assert_settings_hold(method: Method, before: list[dict[str, Any]], after: list[dict[str, Any]], row: Row) -> None:
    """The result has what the method's settings say."""
    settings = vars(method)
    if "zeros" in method.makes:
        within = len(after) if isinstance(settings.get("distribution"), Layerwise) else 1  # each layer is rounded
        assert zeros(after) == pytest.approx(settings["sparsity"] * parameters(after), abs=within)
    if "clusters" in settings:
        assert max(layer["distinct_values"] for layer in after) <= settings["clusters"]
    if isinstance(settings.get("bits"), int):
        assert {layer["bits"] for layer in after} == {settings["bits"]}
        assert max(layer["distinct_values"] for layer in after) <= 2 ** settings["bits"]
    if "bias_correction" in settings:
        assert {layer["bits"] for layer in after} == {8}
        assert row.precision.computes == ("int8",)
    if "cost" in settings:  # channels
        assert parameters(after) < parameters(before)
    if "rank" in settings:
        assert parameters(after) < parameters(before)


@pytest.mark.parametrize(("method", "model"), EVERY if ALL else SAMPLE)
def test_a_method_changes_the_model_and_what_ships_does_the_same(method: str, model: str, tmp_path: Path) -> None:
    made = experiment(plan(f"method={method}", *MODELS[model], *MORE.get((method, model), [])), tmp_path)
    base, row = made.run()

    # It changed the model, as its settings say.
    assert row.identity != base.identity
    assert row.sha256 != base.sha256
    last = list(made.plan.steps.values())[-1].value
    assert_settings_hold(last, layers(made, base.identity), layers(made, row.identity), row)

    # The exported file agrees with torch, but for two of 60 images; more where the processor's integers overflow.
    images = 5 if SATURATES and row.precision.integer else 2
    assert round(60 * abs(row.accuracy - row.accuracy_torch)) <= images

    # Saved, found again and rebuilt: the same outputs to the bit, so the same file.
    again = experiment(made.plan, tmp_path)
    exported = [path for path in (tmp_path / "artifacts").iterdir() if list(path.glob("*.onnx"))]
    files = {path.name: (path / "model.onnx").read_bytes() for path in exported}
    for path in exported:
        (path / "stage.json").unlink()
    assert [found.sha256 for found in again.run()] == [base.sha256, row.sha256]
    assert {name: (tmp_path / "artifacts" / name / "model.onnx").read_bytes() for name in files} == files


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the pairs find the baseline and the first step again."""
    return tmp_path_factory.mktemp("pairs")


@pytest.mark.parametrize(("first", "second"), PAIRS if ALL else FEW)
def test_a_second_method_keeps_what_the_first_made(
    first: str, second: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros stay zeros, shared values stay shared, channels stay gone, in the file; or the second says it cannot."""
    monkeypatch.setattr("src.experiment.making.rehearse", lambda *_: None)  # the test above has it
    steps = [f"+method@method.steps.first={first}", f"+method@method.steps.second={second}"]
    more = {"cluster": ["clusters=8"]}.get(second, []) if first == second else []
    if first.startswith("prune") and second.startswith("prune"):  # more than the first has taken already
        more = ["round_to=4"] if second.startswith("prune_channels") else ["sparsity=0.9"]
    more = [f"method.steps.second.{setting}" for setting in more]
    made = experiment(plan("method=chain", "method.name=pair", *steps, *more, *MODELS["cnn"]), shared)
    one, two = (step.value for step in made.plan.steps.values())
    rows = made.run()
    stages = made.plan.stages(made.plan.data.value.load())
    before, after = layers(made, stages[1].identity), layers(made, rows[1].identity)
    stored = weights_in(shared / "run" / "pair.onnxruntime.onnx")
    if "zeros" in one.makes and "zeros" not in two.undoes:
        if parameters(after) == parameters(before):
            assert zeros(after) >= zeros(before)
            assert sum(int((weight == 0).sum()) for weight in stored) >= zeros(before)
        else:  # channels went, and their zeros with them; no weight that stayed became something else
            assert zeros(after) >= zeros(before) - (parameters(before) - parameters(after))
    if "shared values" in one.makes and "shared values" not in two.undoes:
        assert max(layer["distinct_values"] for layer in after) <= vars(one)["clusters"] + 1  # a zero may come
        assert max(np.unique(weight).size for weight in stored) <= vars(one)["clusters"] + 1
    if "cost" in vars(one) or "rank" in vars(one):
        assert parameters(after) <= parameters(before)
    assert rows[1].sha256 != rows[0].sha256


@pytest.mark.parametrize("method", CHANGING if ALL else ["prune_cluster_quantize", "prune_random"])
def test_the_same_seed_gives_the_same_weights(method: str, tmp_path: Path) -> None:
    made = [experiment(plan(f"method={method}", *MODELS["cnn"]), tmp_path / name) for name in ("one", "two")]
    rows = [one.run()[1] for one in made]
    assert rows[0].identity == rows[1].identity
    first, second = (load_file(one.store.folder(rows[0].identity) / WEIGHTS) for one in made)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_lists_above_are_the_files_in_conf() -> None:
    assert {"baseline", "prune_magnitude", "quantize_int8", "chain"} <= set(METHODS)
    assert CHAINS
    for name in ENDING:
        (step,) = plan(f"method={name}").steps.values()
        assert not isinstance(step.value, Chain)
        assert step.value.ends_chain
