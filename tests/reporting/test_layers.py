"""Layers before and after, from small stages whose every weight is known; and a page of fifty rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from src.contracts import DataSplits, ImageSet
from src.contracts.results import Entry
from src.experiment.results import Results
from src.files.records import write_record
from src.reporting.curves import curves
from src.reporting.gathering import Gathered, Item, Section, stages_of
from src.reporting.layers import changes, histograms, layers_of
from src.reporting.page import page
from src.reporting.predicting import Predictions


def layer(name: str, weight: torch.Tensor, bits: int) -> dict[str, object]:
    return {
        "name": name,
        "shape": list(weight.shape),
        "parameters": weight.numel(),
        "sparsity": float((weight == 0).float().mean()),
        "kept_channels": int(weight.flatten(1).any(1).sum()),
        "distinct_values": int(weight.unique().numel()),
        "bits": bits,
    }


def stage(root: Path, identity: str, spec: dict[str, object], weights: dict[str, torch.Tensor], bits: int) -> None:
    (root / identity).mkdir(parents=True)
    save_file(weights, root / identity / "weights.safetensors")
    layers = [layer(name, weight, bits) for name, weight in weights.items()]
    epochs = [{"train_loss": 0.5, "validation_accuracy": 0.75}, {"train_loss": None, "validation_accuracy": 0.8}]
    write_record(
        root / identity / "stage.json", {"kind": spec["kind"], "spec": spec, "layers": layers, "epochs": epochs}
    )


def item(records: Path, identity: str, name: str) -> Item:
    row = replace(Results.read(records / "run").rows[-1], identity=identity, variant=name)
    return Item(name, Entry(row), records / "run", "make", None, stages_of(identity, records), records)


def test_a_layer_is_shown_before_and_after_with_its_bytes_and_removed_channels(records: Path) -> None:
    before = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    after = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, -0.5, 0.5, 0.0]])
    stage(records, "aa", {"kind": "baseline", "input": None}, {"fc.weight": before}, 32)
    stage(records, "bb", {"kind": "step", "input": "aa"}, {"fc.weight": after}, 4)
    small = item(records, "bb", "small")
    assert list(small.stages) == ["aa", "bb"]
    (change,) = changes(small)
    assert change.before is not None
    assert change.after is not None
    assert (change.before.size_bytes, change.after.size_bytes) == (32, 4)
    assert (change.before.sparsity, change.after.sparsity, change.removed_channels) == (0, 0.625, 1)
    old, new = histograms(small, ["fc.weight"])["fc.weight"]
    assert old is not None
    assert new is not None
    assert (list(old.at), old.zeros, old.values) == ([1, 2, 3, 4, 5, 6, 7, 8], 0, True)
    assert (list(new.at), list(new.counts), new.zeros) == ([-0.5, 0.5], [1, 2], 5)


def test_many_values_are_counted_in_bins_that_both_share(records: Path) -> None:
    torch.manual_seed(0)
    before = torch.randn(64, 100)
    after = torch.where(before.abs() < 1, 0.0, before)
    stage(records, "aa", {"kind": "baseline"}, {"w": before}, 32)
    stage(records, "bb", {"kind": "step", "input": "aa"}, {"w": after}, 32)
    old, new = histograms(item(records, "bb", "sparse"), ["w"])["w"]
    assert old is not None
    assert new is not None
    assert old.at == new.at
    assert sum(old.counts) == 6400
    assert sum(new.counts) + new.zeros == 6400
    edges = np.array(new.at)
    inside = (edges[:-1] > -1) & (edges[1:] < 1)
    assert np.array(new.counts)[inside].sum() == 0


def test_a_curve_stands_once_and_a_number_that_is_not_finite_is_left_out(records: Path) -> None:
    weights = {"w": torch.ones(2, 2)}
    stage(records, "aa", {"kind": "baseline"}, weights, 32)
    stage(
        records, "bb", {"kind": "step", "input": "aa", "method": {"_target_": "src.methods.prune.Prune"}}, weights, 32
    )
    stage(records, "cc", {"kind": "step", "input": "bb"}, weights, 32)
    found = curves([item(records, "aa", "baseline"), item(records, "cc", "both")])
    assert [each["name"] for each in found] == ["baseline", "both: Prune", "both"]
    assert found[0]["points"][1] == {"epoch": 2, "loss": None, "accuracy": 0.8}


@pytest.mark.parametrize("layers", [None, [{}], [{"name": "w"}], ["w"], [{"name": 1, "parameters": "many"}]])
def test_a_stage_of_another_version_has_no_layers_and_breaks_nothing(layers: object) -> None:
    assert layers_of({"layers": layers}) == {}


def test_fifty_rows_with_images_stay_under_five_megabytes(records: Path) -> None:
    torch.manual_seed(0)
    weights = {f"layer{number}.weight": torch.randn(40, 40) for number in range(30)}
    stage(records, "00", {"kind": "baseline"}, weights, 32)
    items = [item(records, "00", "baseline")]
    images = ImageSet(torch.randint(0, 256, (400, 3, 224, 224), dtype=torch.uint8), torch.arange(400) % 10)
    for number in range(1, 50):
        sparse = {name: torch.where(w.abs() < number / 50, 0.0, w) for name, w in weights.items()}
        stage(records, f"{number:02}", {"kind": "step", "input": "00"}, sparse, 32)
        items.append(item(records, f"{number:02}", f"variant {number}"))
    row = replace(items[0].row, variant="baseline", target=items[1].row.target)
    items[0] = replace(items[0], entry=Entry(row))
    labels = images.labels.numpy()
    random = np.random.default_rng(0)
    predicted = {each.name: random.integers(0, 10, 400) for each in items}
    names = tuple(map(str, range(10)))
    splits = DataSplits("drawn", names, images, images, images, images, (0.5,) * 3, (0.5,) * 3, None, "0")
    found = Predictions(names, labels, predicted, splits)
    text = page(Gathered("fifty", [], [Section("drawn", None, items)]), [found], "")
    views = json.loads(text.partition('id="views">')[2].partition("</script>")[0])
    assert sum(len(change["flipped"]) for change in views[0]["changes"] if change) > 500
    assert sum(len(layer["weights"]) for layers in views[0]["layers"] for layer in layers) == 2 * 30 * 50
    assert len(text.encode()) < 5_000_000
