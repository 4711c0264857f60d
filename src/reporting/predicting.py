"""What each exported file predicts for the test images: run once, kept beside the file, and compared with its row."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.contracts import DataSplits, InputError, Row, Target, first_line
from src.data.batches import evaluation_batches
from src.device import schema
from src.device.schema import LINE, TEXT, Kind, count
from src.files.records import read_record, write_record
from src.metrics.size import parts_of, sha256
from src.reporting.gathering import Item, Section

log = logging.getLogger(__name__)
KEPT = ".predictions.json"  # in the folder of the file
BATCH = 500
RECORD: Mapping[str, Any] = {
    "checksum": LINE,
    "classes": [TEXT],
    "labels": [count(0)],
    "files": Kind("an object", lambda value: isinstance(value, dict)),
}
FILE: Mapping[str, Any] = {"sha256": LINE, "predicted": [count(0)]}


@dataclass(frozen=True)
class Reader:
    """How the report gets at what only the command can build.

    Attributes:
        load: Loads the data of the run in a folder; raises InputError if it is not here.
        target: Returns what runs an exported file; raises InputError if nothing here does.
        seconds: How long files of one report may run; those that would take longer are left out. None is no limit.
    """

    load: Callable[[Path], DataSplits]
    target: Callable[[Path], Target]
    seconds: float | None = None


@dataclass
class Predictions:
    """What the files of a section predict for its test images.

    Attributes:
        classes: Names of the classes.
        labels: The label of each test image, ``[images]``; None if it is not known.
        predicted: Predicted classes, ``[images]``, by the name of the item.
        splits: The data; None if it is not here.
        notes: Why some are missing, in lines.
    """

    classes: Sequence[str] = ()
    labels: np.ndarray | None = None
    predicted: dict[str, np.ndarray] = field(default_factory=dict)
    splits: DataSplits | None = None
    notes: list[str] = field(default_factory=list)


def predictions(section: Section, reader: Reader) -> Predictions:
    """The predictions of each file of a section: those that are kept, and those of files that are run now."""
    found = Predictions()
    waiting = [item for item in section.items if not _take_kept(item, section, found)]
    left, over = reader.seconds, list[str]()
    try:
        found.splits = reader.load(section.items[0].folder)
        if section.checksum not in (None, found.splits.checksum):
            found.splits = None
            raise InputError(f"{section.data} has changed since these files were measured")
    except (InputError, OSError) as error:
        found.notes.append(f"The test images of {section.data} are not shown: {first_line(error)}")
    if found.splits is None:
        return found
    if found.labels is None:
        found.classes, found.labels = found.splits.classes, found.splits.test.labels.numpy()
    for item in waiting:
        needed = len(found.splits.test) * (item.row.latency_ms_p50 or 1.0) / 1000
        if left is not None and needed > left:
            over.append(item.row.artifact)
            continue
        left = None if left is None else left - needed
        _run(item, found.splits, reader, found)
    if over:
        found.notes.append(f"Not run again on the test images, for it would take long: {', '.join(over)}.")
    return found


def _take_kept(item: Item, section: Section, found: Predictions) -> bool:
    """Take what is kept of a file's predictions; False if nothing is, or it does not belong to this file and data."""
    try:
        record = read_record(item.folder / KEPT)
        schema.check(record, RECORD)
        kept = record["files"].get(item.row.artifact)
        if kept is None or section.checksum not in (None, record["checksum"]):
            return False
        schema.check(kept, FILE)
    except (OSError, InputError, schema.InputError):
        return False
    labels, classes = np.array(record["labels"], np.int64), tuple(record["classes"])
    predicted = np.array(kept["predicted"], np.int64)
    if kept["sha256"] != item.row.sha256 or (found.labels is not None and not np.array_equal(found.labels, labels)):
        return False
    if not _fits(item.row, predicted, labels) or max(labels.max(), predicted.max()) >= len(classes):
        return False
    found.classes, found.labels = classes, labels
    found.predicted[item.name] = predicted
    return True


def _run(item: Item, splits: DataSplits, reader: Reader, found: Predictions) -> None:
    """Run a file on the test images; if its accuracy is not that of its row, a note says so and nothing is taken."""
    path, row = item.folder / item.row.artifact, item.row
    labels = splits.test.labels.numpy()
    try:
        target = reader.target(path)
        if sha256(parts_of(target, path)) != row.sha256:
            found.notes.append(f"{row.artifact} is not the file that was measured, so its predictions are not shown.")
            return
        predicted = _predicted(target, path, splits)
    except Exception as error:  # runtimes raise types of their own
        log.info("%s cannot be run", path, exc_info=True)
        found.notes.append(f"{row.artifact} cannot be run here, so its predictions are not shown: {first_line(error)}")
        return
    if not _fits(row, predicted, labels):
        here = float((predicted == labels).mean())
        found.notes.append(
            f"{row.artifact} reaches {here:.2%} here, {row.accuracy:.2%} in its row: its predictions are not shown."
        )
        return
    found.predicted[item.name] = predicted
    _keep(item, splits, predicted)


def _predicted(target: Target, path: Path, splits: DataSplits) -> np.ndarray:
    """The class of the largest logit of each test image, ``[images]``."""
    card = target.read_card(path)
    seen = replace(splits, mean=card.mean, std=card.std)
    session = target.load(path, threads=1)
    batches = evaluation_batches(seen, seen.test, batch_size=BATCH)
    return np.concatenate([session(images.numpy()).argmax(1) for images, _ in batches]).astype(np.int64)


def _fits(row: Row, predicted: np.ndarray, labels: np.ndarray) -> bool:
    """Whether predictions have the accuracy of the row."""
    if predicted.shape != labels.shape or not len(labels):
        return False
    return abs(float((predicted == labels).mean()) - row.accuracy) < 0.5 / len(labels)


def _keep(item: Item, splits: DataSplits, predicted: np.ndarray) -> None:
    """Keep predictions beside the file, so that the next report finds them, where they can be written."""
    path, files = item.folder / KEPT, {}
    with contextlib.suppress(OSError, InputError):
        record = read_record(path)
        if record.get("checksum") == splits.checksum and isinstance(record.get("files"), dict):
            files = record["files"]
    content = {
        "checksum": splits.checksum,
        "classes": list(splits.classes),
        "labels": splits.test.labels.tolist(),
        "files": {**files, item.row.artifact: {"sha256": item.row.sha256, "predicted": predicted.tolist()}},
    }
    with contextlib.suppress(OSError):
        write_record(path, content)


def image_of(splits: DataSplits, number: int) -> torch.Tensor:
    """A test image ``[c, h, w]``, uint8, with one channel or three."""
    image = splits.test.images[number]
    return image if len(image) in (1, 3) else image[:1]
