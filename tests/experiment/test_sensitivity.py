"""One layer at a time: what is measured is what was done, and the network is left as it was."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.contracts import DataSplits
from src.data.batches import evaluation_batches
from src.display.terminal import Console
from src.experiment.sensitivity import Sweep, analyse, int8_noise, output_snr, sensitivity, snr_db, table
from src.stages.store import StageStore
from tests.methods.test_prune import Net, context
from tests.plans import plan
from tests.primitives.foreign import Lists

SWEEP = Sweep(sparsity=[0.5, 0.9], bits=[2, 8], clusters=[2, 16], images=100, float_layers=1)


def test_each_layer_is_changed_alone_and_put_back(splits: DataSplits) -> None:
    torch.manual_seed(0)
    net = Net().eval()
    before = copy.deepcopy(net.state_dict())
    seen: list[tuple[int, int, float, float]] = []

    def evaluate(model: nn.Module) -> float:
        conv, fc = model.get_parameter("conv.weight"), model.get_parameter("fc.weight")
        shares = [float((weight == 0).float().mean()) for weight in (conv, fc)]
        seen.append((conv.unique().numel(), fc.unique().numel(), *shares))
        return (len(seen) - 1) / 100

    written: list[list[str]] = []
    record = sensitivity(
        net, SWEEP, evaluate, context(splits).example_input, lambda name, so_far: written.append(list(so_far["layers"]))
    )
    assert written == [["conv.weight"], ["conv.weight", "fc.weight"]]  # finished work can be written as it comes
    assert record["accuracy"] == 0
    assert list(record["layers"]) == ["conv.weight", "fc.weight"]
    assert record["layers"]["conv.weight"]["sparsity"] == {"0.5": 0.01, "0.9": 0.02}
    assert record["layers"]["fc.weight"]["clusters"] == {"2": 0.11, "16": 0.12}
    unchanged, *seen = seen
    assert [round(share, 2) for _, _, share, _ in seen[:2]] == [0.5, 0.9]
    assert [fc for _, fc, _, _ in seen[:6]] == [unchanged[1]] * 6  # only conv was changed
    assert [conv for conv, _, _, _ in seen[6:]] == [unchanged[0]] * 6
    assert [fc for _, fc, _, _ in seen[10:12]] == [2, 16]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert len(table(record)) == 3


def test_ratios_of_signal_to_noise_by_hand(splits: DataSplits) -> None:
    assert snr_db(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(20.0)
    net = Net().eval()
    louder = copy.deepcopy(net)
    with torch.no_grad():
        louder.fc.weight.mul_(1.1)
        louder.fc.bias.mul_(1.1)
    batches = evaluation_batches(splits, splits.validation, batch_size=3)
    found = output_snr(net, louder, ["conv.weight", "fc.weight"], batches)
    assert found["fc.weight"] == pytest.approx(20.0, abs=0.01)
    assert found["conv.weight"] > 200


def test_int8_is_judged_layer_by_layer(splits: DataSplits) -> None:
    net = Net().eval()
    batches = evaluation_batches(splits, splits.validation, batch_size=3)
    accuracies = iter([0.9, 0.5, 0.8])
    found = int8_noise(net, SWEEP, lambda model: next(accuracies), context(splits), batches)
    assert set(found["snr_db"]) == {"conv.weight", "fc.weight"}
    assert all(20 < noise[kind] < 80 for noise in found["snr_db"].values() for kind in ("weight", "validation"))
    worst = min(found["snr_db"], key=lambda name: found["snr_db"][name]["validation"])
    assert found["left_in_float"] == [{"layers": [worst], "accuracy": 0.8}]
    assert found["advice"] == [worst]


class OwnLists(Lists):
    """``Lists`` for the classes of a data set."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(16, num_classes)


def analysed(folder: Path, sweep: Sweep) -> tuple[dict[str, Any], str]:
    """The record that an analysis of ``OwnLists`` writes, and what it says."""
    said = io.StringIO()
    made = plan("method=baseline", "model=custom", "model._target_=tests.experiment.test_sensitivity.OwnLists")
    analyse(made, sweep, store=StageStore(folder / "artifacts"), console=Console(said, ""), folder=folder)
    return json.loads((folder / "sensitivity.json").read_text()), said.getvalue()


def test_layers_in_lists_and_parameters_of_functions_are_measured_and_can_stay_in_float(tmp_path: Path) -> None:
    record, _ = analysed(tmp_path, replace(SWEEP, sparsity=[0.9], bits=[], clusters=[2], float_layers=2))
    streams = [f"streams.{at}.weight" for at in range(3)]
    assert list(record["layers"]) == ["kernel", *streams, "fc.weight"]
    assert [len(entry["layers"]) for entry in record["int8"]["left_in_float"]] == [1, 2]


def test_a_network_that_int8_refuses_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("shape '[16]' is invalid for input of size 1")

    monkeypatch.setattr("src.experiment.sensitivity.int8_noise", refused)
    record, said = analysed(tmp_path, replace(SWEEP, sparsity=[0.9], bits=[], clusters=[]))
    assert record["layers"]["kernel"]["sparsity"].keys() == {"0.9"}
    assert record["int8"] == {"refused": "shape '[16]' is invalid for input of size 1"}
    assert "INT8 cannot be measured on this network: shape '[16]'" in said


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sparsity": [1.0]}, "sparsity"),
        ({"bits": [17]}, "bits"),
        ({"clusters": [1]}, "clusters"),
        ({"images": 0}, "images"),
        ({"sparsity": [], "bits": [], "clusters": []}, "there is nothing to try"),
    ],
)
def test_what_cannot_be_tried_is_refused(settings: dict, says: str) -> None:
    given = {"sparsity": [0.5], "bits": [4], "clusters": [4], "images": 10, "float_layers": 0, **settings}
    with pytest.raises(ValueError, match=says):
        Sweep(**given)
