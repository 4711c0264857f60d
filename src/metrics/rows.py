"""A result row: one exported file, loaded again in its runtime and measured there."""

from __future__ import annotations

import datetime
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.contracts import LEAST_AGREEMENT, DataSplits, Graph, ImageSet, Lowered, Row, Session, Target, first_line
from src.metrics import graph as counted
from src.metrics.accuracy import file_accuracy, torch_accuracy
from src.metrics.agreement import agreement, departs_at
from src.metrics.energy import energy_uj_estimate
from src.metrics.machine import machine
from src.metrics.size import sha256, size_bytes, size_gzip_bytes
from src.metrics.timing import Clock, Timing, speedup, time_files

log = logging.getLogger(__name__)
Batches = Iterable[tuple[Tensor, Tensor]]
COMPARED, PROBED = 1000, 64  # images for agreement, and to find the layer where it ends


def measure(
    target: Target,
    parts: Sequence[Path],
    model: nn.Module,
    result: Lowered,
    splits: DataSplits,
    batches: Callable[[ImageSet], Batches],
    *,
    bits_per_weight: float,
    identity: str,
    threads: int,
) -> Row:
    """Measure a file; who made it and what it is called (variant, target, model, artifact) is left empty, and times.

    Args:
        target: That wrote it.
        parts: Of the file, as written.
        model: That it should do the same as.
        result: What it was written from.
        splits: The test part gives the accuracy, the validation part what budgets look at.
        batches: Over a part of the data, in file order.
        bits_per_weight: The mean over its weights as stored.
        identity: Of the stage that was exported.
        threads: For everything.
    """
    session = target.load(parts[0], threads=threads)
    on_test = file_accuracy(session, batches(splits.test), len(splits.classes))
    compared = splits.validation.select(torch.arange(min(COMPARED, len(splits.validation))))
    agreed = agreement(session, model, (images for images, _ in batches(compared)))
    untested, unavailable = measure_untested(target, parts, session, splits, batches, integer=result.integer)
    departs, reason = None, None
    if agreed.classes < LEAST_AGREEMENT:
        departs, reason = _departs_at(target, result, compared, batches)
        unavailable |= {"departs_at": reason} if reason else {}
    return Row(
        variant="",
        target="",
        data=splits.name,
        model="",
        runtime=target.runtime,
        precision=target.precision(result.integer),
        artifact="",
        sha256=sha256(parts),
        identity=identity,
        weights_kept="",
        accuracy=on_test.overall,
        accuracy_per_class=dict(zip(splits.classes, on_test.per_class, strict=True)),
        accuracy_torch=torch_accuracy(model, batches(splits.test), len(splits.classes)).overall,
        agreement=agreed.classes,
        logit_difference_max=agreed.largest,
        logit_difference_mean=agreed.mean,
        departs_at=departs,
        **untested,
        bits_per_weight=bits_per_weight,
        unavailable=unavailable,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(),
    )


def measure_untested(
    target: Target,
    parts: Sequence[Path],
    session: Session,
    splits: DataSplits,
    batches: Callable[[ImageSet], Batches],
    *,
    integer: bool,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns that need neither test data nor a clock, and why some of them are None.

    Args:
        target, parts, splits, batches: As for ``measure``.
        session: The file, loaded.
        integer: Whether the file computes in integers.
    """
    validated = file_accuracy(session, batches(splits.validation), len(splits.classes))
    counts, unavailable = _counts(target, parts[0], target.precision(integer))
    return {
        "accuracy_validation": validated.overall,
        "size_bytes": size_bytes(parts),
        "size_gzip_bytes": size_gzip_bytes(parts),
        **counts,
    }, unavailable


def measure_times(
    files: Sequence[tuple[Target, Path]], splits: DataSplits, batches: Callable[[ImageSet], Batches], clock: Clock
) -> list[Timing]:
    """Time files in turns on one calibration image."""
    return time_files(files, one_image(splits, batches), clock)


def one_image(splits: DataSplits, batches: Callable[[ImageSet], Batches]) -> np.ndarray:
    """``[1, c, h, w]``, float32, normalized: the first for calibration."""
    image: np.ndarray = next(iter(batches(splits.calibration.select(torch.arange(1)))))[0].numpy()
    return image


def with_times(row: Row, base: Row | None, timings: Mapping[str, Timing], at: str | None) -> Row:
    """``row`` with its times, and with its ratios to the baseline's file of the same target.

    Args:
        row: Without them.
        base: The baseline's; None where its target has none.
        timings: By artifact; files that were not timed are missing.
        at: When they were taken.
    """
    ours = timings.get(row.artifact)
    ratio = base.size_bytes / row.size_bytes if base is not None else None
    if ours is None:
        reasons = dict.fromkeys(("latency_ms_p50",), f"{row.runtime} stands in, whose times say nothing of the target")
        return replace(row, compression_ratio=ratio, unavailable={**row.unavailable, **reasons})
    missing = {} if ours.peak_memory_bytes is not None else {"peak_memory_bytes": "the system does not tell"}
    missing = {**row.unavailable, **missing}
    row = replace(row, compression_ratio=ratio, **ours.columns(), timed_at=at, unavailable=missing)
    if base is None or base.artifact not in timings:
        return row
    faster = speedup(ours, timings[base.artifact])
    return replace(row, speedup=faster.value, speedup_low=faster.low, speedup_high=faster.high)


def bits_per_weight(layers: Sequence[Mapping[str, Any]]) -> float:
    """Mean bits of a weight over the layers that ``stage.json`` describes, as a file stores them."""
    total = sum(layer["parameters"] for layer in layers)
    return sum(layer["bits"] * layer["parameters"] for layer in layers) / max(1, total)


def _departs_at(
    target: Target, result: Lowered, compared: ImageSet, batches: Callable[[ImageSet], Batches]
) -> tuple[str | None, str | None]:
    """The layer where the file departs from the model, or why it is not known."""
    images = next(iter(batches(compared)))[0][:PROBED]
    try:
        with tempfile.TemporaryDirectory() as folder:
            return departs_at(target, result, images[:1], images, Path(folder)), None
    except Exception as error:  # a finished training must not be lost for a hint
        log.exception("where the file departs cannot be found")
        return None, f"the layers cannot be looked at: {first_line(error)}"


def _counts(target: Target, path: Path, precision: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What is counted in the file's graph; a graph that cannot be read gives None and the reason."""
    columns: dict[str, Callable[[Graph], Any]] = {
        "parameters": counted.parameters,
        "nonzero_parameters": counted.nonzero_parameters,
        "macs": counted.macs,
        "peak_activation_bytes": counted.peak_activation_bytes,
        "energy_uj_estimate": lambda graph: energy_uj_estimate(graph, arithmetic(precision)),
    }
    try:
        graph = target.graph(path)
        return {name: count(graph) for name, count in columns.items()}, {}
    except Exception as error:  # a finished training must not be lost for a count
        log.exception("the graph of %s cannot be counted", path)
        return dict.fromkeys(columns), dict.fromkeys(columns, f"the graph cannot be counted: {first_line(error)}")


def arithmetic(precision: str) -> str:
    """``float32``, ``float16`` or ``bf16``: what a file of such a ``precision`` computes in where not in integers."""
    return next((name for name in ("bf16", "float16") if name in precision.split(",")[0]), "float32")
