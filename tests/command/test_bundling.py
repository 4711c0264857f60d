"""A bundle's models get different names, and its test images represent the test set."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from src.command.bundle_files import MeasuredFile
from src.command.bundle_images import Sample, pick
from src.command.bundling import _model, archive, labels
from src.contracts import Entry, ImageSet
from tests.rows import row

PRUNED = row(variant="prune", target="t", data="d", model="m", seed=0, identity="a")


def entry(*settings: str, **changes: object) -> Entry:
    columns = {name: getattr(PRUNED, name) for name in ("variant", "target", "data", "model", "seed", "identity")}
    return Entry(row(**{**columns, **changes}), settings)


def test_names_tell_rows_apart_by_what_differs() -> None:
    assert labels([entry(), entry(target="u"), entry(data="e")]) == ["prune"] * 3
    assert labels([entry(), entry(seed=1)]) == ["prune seed 0", "prune seed 1"]
    settings = [entry(f"method.sparsity=0.{at}") for at in (5, 9)]
    assert labels(settings) == ["prune method.sparsity=0.5", "prune method.sparsity=0.9"]
    assert labels([entry(), entry(model="n", seed=1)]) == ["prune m", "prune n"]
    assert labels([entry(), entry(identity="b")]) == ["prune a", "prune b"]


def test_an_archive_is_the_same_for_the_same_content_and_holds_the_evaluator() -> None:
    files = {"models/b": b"second", "models/a": b"first"}
    made = archive(files)
    assert made == archive(dict(reversed(files.items())))
    assert made.startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(io.BytesIO(made)) as packed:
        assert packed.namelist() == sorted(packed.namelist())
        assert {"__main__.py", "device/__main__.py", "device/manifest.py", "models/a"} <= set(packed.namelist())
        assert packed.read("models/a") == b"first"


def test_a_sample_has_each_class_in_proportion_and_is_the_same_each_time() -> None:
    numbers = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    images = ImageSet(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1), numbers)
    chosen = pick(images, 10, 3)
    assert torch.bincount(chosen.labels).tolist() == [6, 3, 1]
    places = chosen.images.flatten().tolist()
    assert places == sorted(set(places))
    assert places == pick(images, 10, 3).images.flatten().tolist()


def test_the_record_of_a_bundle_has_the_size_of_the_file_not_that_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(bytes(1234))
    file = MeasuredFile(Entry(row(size_bytes=7)), (tmp_path / "small.onnx",), {}, None, None)
    model = _model(file, Sample(b"", {"name": "pets", "images": 3}), "small")
    assert (model.host.size_bytes, model.manifest["size_bytes"], model.host.images) == (1234, 1234, 3)


@pytest.mark.parametrize("count", [1, 7, 99])
def test_a_sample_has_exactly_the_number_of_images_that_is_given(count: int) -> None:
    numbers = torch.from_numpy(np.random.default_rng(0).integers(0, 7, 100))
    images = ImageSet(torch.zeros(100, 1, 1, 1, dtype=torch.uint8), numbers)
    assert len(pick(images, count, 7)) == count


def test_a_small_set_is_taken_whole() -> None:
    images = ImageSet(torch.zeros(5, 1, 1, 1, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    assert pick(images, 6, 2) is images
    assert pick(images, None, 2) is images
