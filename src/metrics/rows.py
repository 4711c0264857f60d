"""A result row: one exported file, loaded again in its runtime and measured there."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from src.contracts import DataSplits, ImageSet, Row, Target, first_line
from src.metrics import graph as counted
from src.metrics.accuracy import file_accuracy
from src.metrics.latency import latency
from src.metrics.machine import machine
from src.metrics.size import sha256, size_bytes, size_gzip_bytes

log = logging.getLogger(__name__)
Batches = Iterable[tuple[Tensor, Tensor]]


def measure(
    target: Target,
    parts: Sequence[Path],
    splits: DataSplits,
    batches: Callable[[ImageSet], Batches],
    *,
    integer: bool,
    bits_per_weight: float,
    accuracy_torch: float,
    identity: str,
    threads: int,
) -> Row:
    """Measure a file; who made it and what it is called (variant, target, model, artifact) is left empty.

    Args:
        target: That wrote it.
        parts: Of the file, as written.
        splits: The test part gives the accuracy, the validation part what budgets look at.
        batches: Over a part of the data, in file order.
        integer: Whether it computes in integers.
        bits_per_weight: The mean over its weights as stored.
        accuracy_torch: Of the torch model, on the test part.
        identity: Of the stage that was exported.
        threads: For the accuracies; latency is of one.
    """
    on_test = file_accuracy(target.load(parts[0], threads=threads), batches(splits.test), len(splits.classes))
    untested, unavailable = measure_untested(target, parts, splits, batches, threads=threads, timed=True)
    return Row(
        variant="",
        target="",
        data=splits.name,
        model="",
        runtime=target.runtime,
        precision=target.precision(integer),
        artifact="",
        sha256=sha256(parts),
        identity=identity,
        weights_kept="",
        accuracy=on_test.overall,
        accuracy_per_class=dict(zip(splits.classes, on_test.per_class, strict=True)),
        accuracy_torch=accuracy_torch,
        **untested,
        bits_per_weight=bits_per_weight,
        unavailable=unavailable,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(),
    )


def measure_untested(
    target: Target,
    parts: Sequence[Path],
    splits: DataSplits,
    batches: Callable[[ImageSet], Batches],
    *,
    threads: int,
    timed: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns that need no test data, and why some of them are None.

    Args:
        target, parts, splits, batches, threads: As for ``measure``.
        timed: Whether latency is measured; else its columns are not there.
    """
    validated = file_accuracy(target.load(parts[0], threads=threads), batches(splits.validation), len(splits.classes))
    columns: dict[str, Any] = {
        "accuracy_validation": validated.overall,
        "size_bytes": size_bytes(parts),
        "size_gzip_bytes": size_gzip_bytes(parts),
    }
    if timed:
        image = next(iter(batches(splits.calibration.select(slice(0, 1)))))[0]  # type: ignore[arg-type]
        took = latency(target.load(parts[0], threads=1), image.numpy())
        columns |= {"latency_ms_p50": took.p50_ms, "latency_ms_p95": took.p95_ms}
    counts, unavailable = _counts(target, parts[0])
    return {**columns, **counts}, unavailable


def bits_per_weight(layers: Sequence[Mapping[str, Any]]) -> float:
    """Mean bits of a weight over the layers that ``stage.json`` describes, as a file stores them."""
    total = sum(layer["parameters"] for layer in layers)
    return sum(layer["bits"] * layer["parameters"] for layer in layers) / max(1, total)


def _counts(target: Target, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What is counted in the file's graph; a graph that cannot be read gives None and the reason."""
    columns = {
        "parameters": counted.parameters,
        "nonzero_parameters": counted.nonzero_parameters,
        "macs": counted.macs,
        "peak_activation_bytes": counted.peak_activation_bytes,
    }
    try:
        graph = target.graph(path)
        return {name: count(graph) for name, count in columns.items()}, {}
    except Exception as error:  # a finished training must not be lost for a count
        log.exception("the graph of %s cannot be counted", path)
        return dict.fromkeys(columns), dict.fromkeys(columns, f"the graph cannot be counted: {first_line(error)}")
