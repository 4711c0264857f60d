"""The columns of a result row: one exported file, loaded again in its runtime and measured there."""

from __future__ import annotations

import datetime
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.contracts import (
    LEAST_AGREEMENT,
    DataSplits,
    Graph,
    ImageSet,
    Lowered,
    Precision,
    Row,
    Runtime,
    Session,
    Target,
    first_line,
)
from src.contracts.output_quantizers import without_output_quantizers
from src.metrics import graph as counted
from src.metrics.accuracy import file_accuracy, torch_accuracy
from src.metrics.agreement import agreement, departs_at
from src.metrics.energy import energy_uj_estimate
from src.metrics.machine import machine
from src.metrics.saturation import saturating_layers
from src.metrics.size import sha256, size_bytes, size_gzip_bytes, size_packed_bytes
from src.metrics.timing import Clock, Timing, speedup, time_files

log = logging.getLogger(__name__)
Batches = Iterable[tuple[Tensor, Tensor]]
COMPARED, PROBED = 1000, 64  # images for the agreement, and for finding the layer that departs
NAMED = 5  # operations that are named
DIGITS = 9  # of the difference of two accuracies


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
) -> dict[str, Any]:
    """Measure a file without a clock: every column that follows from this file alone.

    Args:
        target: Target that wrote the file.
        parts: All parts of the file.
        model: The torch model that the file should agree with.
        result: The network that was exported.
        splits: The data; the test part gives the accuracy, the validation part what budgets look at.
        batches: Gives batches of a part of the data, in file order.
        bits_per_weight: Mean bits of a weight as the stage stores them.
        identity: Identity of the stage that was exported.
        threads: Number of threads that the file runs with.

    Returns:
        Columns of ``Row`` by name, as JSON can hold them; ``unavailable`` says why some of them are None.
    """
    session = target.load(parts[0], threads=threads)
    on_test = file_accuracy(session, batches(splits.test), len(splits.classes))
    compared = splits.validation.select(torch.arange(min(COMPARED, len(splits.validation))))
    with without_output_quantizers(model, target.unquantized_outputs):  # which are not in the file
        agreed = agreement(session, model, (images for images, _ in batches(compared)))
    untested = measure_untested(target, parts, session, splits, batches, result)
    departs, unavailable = None, untested.pop("unavailable")
    if agreed.classes < LEAST_AGREEMENT:
        departs, reason = _departs_at(target, result, compared, batches)
        unavailable |= {"departs_at": reason} if reason else {}
    return {
        "data": splits.name,
        "runtime": asdict(target.runtime),
        "precision": asdict(target.precision(result.integer)),
        "bits_per_weight": bits_per_weight,
        "sha256": sha256(parts),
        "identity": identity,
        "accuracy": on_test.overall,
        "balanced_accuracy": on_test.balanced,
        "accuracy_per_class": dict(zip(splits.classes, on_test.per_class, strict=True)),
        "accuracy_torch": torch_accuracy(model, batches(splits.test), len(splits.classes)).overall,
        "agreement": agreed.classes,
        "logit_difference_max": agreed.largest,
        "logit_difference_mean": agreed.mean,
        "logit_range": agreed.range,
        "departs_at": departs,
        **untested,
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "unavailable": unavailable,
    }


def measure_untested(
    target: Target,
    parts: Sequence[Path],
    session: Session,
    splits: DataSplits,
    batches: Callable[[ImageSet], Batches],
    result: Lowered,
) -> dict[str, Any]:
    """Measure the columns that need neither test data nor a clock.

    Args:
        target, parts, splits, batches, result: As for ``measure``.
        session: The file, loaded.

    Returns:
        Columns of ``Row`` by name; ``unavailable`` says why some of them are None.
    """
    validated = file_accuracy(session, batches(splits.validation), len(splits.classes))
    counts, unavailable = _counts(target, parts[0], target.precision(result.integer))
    packed = _size_packed(result, unavailable)
    return {
        "accuracy_validation": validated.overall,
        "size_bytes": size_bytes(parts),
        "size_gzip_bytes": size_gzip_bytes(parts),
        "size_packed_bytes": packed,
        **counts,
        "may_saturate": _listed(saturating_layers(result.integers)) if result.integer else None,
        "unavailable": unavailable,
    }


def _size_packed(result: Lowered, unavailable: dict[str, str]) -> int | None:
    """Bytes of the weights packed; if that cannot be, None, and the reason comes to ``unavailable``."""
    try:
        return size_packed_bytes(result)
    except ModuleNotFoundError as error:
        reason = f"the coders need {error.name}, which is not installed"
    except Exception as error:  # a finished training must not be lost for a count
        log.exception("the weights cannot be packed")
        reason = f"the weights cannot be packed: {first_line(error)}"
    unavailable["size_packed_bytes"] = reason
    return None


def measure_times(
    files: Sequence[tuple[Target, Path]], splits: DataSplits, batches: Callable[[ImageSet], Batches], clock: Clock
) -> list[Timing]:
    """Time files in turns on one calibration image; raise UntimedError if a file fails."""
    return time_files(files, one_image(splits, batches), clock)


def one_image(splits: DataSplits, batches: Callable[[ImageSet], Batches]) -> np.ndarray:
    """The first calibration image, normalized: ``[1, c, h, w]``, float32."""
    image: np.ndarray = next(iter(batches(splits.calibration.select(torch.arange(1)))))[0].numpy()
    return image


def complete(
    columns: Mapping[str, Any],
    *,
    variant: str,
    target: str,
    model: str,
    seed: int,
    artifact: str,
    weights_kept: str,
    base: Row | None,
    timing: Timing | None,
    base_timing: Timing | None,
    timed_at: str | None,
) -> Row:
    """Build the row of a file from all that is known of it.

    Args:
        columns: Columns that ``measure`` gave.
        variant: ``baseline``, or the name of the method or chain.
        target: Name of the target.
        model: Name of the network.
        seed: Seed of the run.
        artifact: Name of the file.
        weights_kept: Which epoch's weights the model has.
        base: Row of the baseline's file of the same target; None for the baseline itself, or if it has no such file.
        timing: Times of the file; None if it was not timed.
        base_timing: Times of the baseline's file, taken together with ``timing``; None if it was not timed. The
            baseline itself needs none.
        timed_at: When the times were taken; None if the file was not timed.
    """
    unavailable = {**columns["unavailable"], **_missing_times(timing, Runtime.of(columns["runtime"]))}
    return Row.of(
        {
            **columns,
            "variant": variant,
            "target": target,
            "model": model,
            "seed": seed,
            "artifact": artifact,
            "weights_kept": weights_kept,
            **({} if timing is None else timing.columns() | {"timed_at": timed_at}),
            **_relative(columns, variant == "baseline", base, timing, base_timing),
            "unavailable": unavailable,
        }
    )


def _relative(
    columns: Mapping[str, Any], is_baseline: bool, base: Row | None, timing: Timing | None, base_timing: Timing | None
) -> dict[str, float | None]:
    """The columns that compare a file with the baseline's; the baseline is compared with itself."""
    relative: dict[str, float | None] = {}
    if is_baseline:
        relative["compression_ratio"] = 1.0
        base_timing = timing
    elif base is not None:
        relative["compression_ratio"] = base.size_bytes / columns["size_bytes"]
        relative["accuracy_change"] = round(columns["accuracy"] - base.accuracy, DIGITS)
    if timing is not None and base_timing is not None:
        ratio = speedup(timing, base_timing)
        relative |= {"speedup": ratio.value, "speedup_low": ratio.low, "speedup_high": ratio.high}
    return relative


def _missing_times(timing: Timing | None, runtime: Runtime) -> dict[str, str]:
    """Why times are None."""
    if timing is None:
        return {"latency_ms_p50": f"{runtime} stands in, whose times say nothing of the target"}
    return {} if timing.peak_memory_bytes is not None else {"peak_memory_bytes": "the system does not tell"}


def bits_per_weight(layers: Sequence[Mapping[str, Any]]) -> float:
    """Mean bits of a weight over the layers that ``stage.json`` describes."""
    total = sum(layer["parameters"] for layer in layers)
    return sum(layer["bits"] * layer["parameters"] for layer in layers) / max(1, total)


def _departs_at(
    target: Target, result: Lowered, compared: ImageSet, batches: Callable[[ImageSet], Batches]
) -> tuple[str | None, str | None]:
    """The first layer whose outputs differ from those of the model; if the search for it fails, the reason."""
    images = next(iter(batches(compared)))[0][:PROBED]
    try:
        with tempfile.TemporaryDirectory() as folder:
            return departs_at(target, result, images[:1], images, Path(folder)), None
    except Exception as error:  # a finished training must not be lost for a hint
        log.exception("the layer that departs cannot be found")
        return None, f"the layers cannot be looked at: {first_line(error)}"


def _listed(names: Sequence[str]) -> str | None:
    """The first of the names, and how many more there are; None if there is none."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more if names else None


def _counts(target: Target, path: Path, precision: Precision) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns that are counted in the file's graph; if it cannot be read, they are None, with the reason."""
    columns: dict[str, Callable[[Graph], Any]] = {
        "parameters": counted.parameters,
        "nonzero_parameters": counted.nonzero_parameters,
        "macs": counted.macs,
        "integer_share": counted.integer_share,
        "float_operations": lambda graph: _listed(counted.float_operations(graph)) if precision.integer else None,
        "peak_activation_bytes": counted.peak_activation_bytes,
        "energy_uj_estimate": lambda graph: energy_uj_estimate(graph, precision.floats),
    }
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    try:
        graph = target.graph(path)
    except Exception as error:  # a finished training must not be lost for a count
        log.exception("the graph of %s cannot be read", path)
        return dict.fromkeys(columns), dict.fromkeys(columns, f"the graph cannot be counted: {first_line(error)}")
    for name, count in columns.items():
        try:
            found[name] = count(graph)
        except Exception as error:
            log.exception("%s of %s cannot be counted", name, path)
            found[name], reasons[name] = None, f"the graph cannot be counted: {first_line(error)}"
    return found, reasons
