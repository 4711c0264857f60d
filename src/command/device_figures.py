"""Which figures a board's results file may hold: each of its kind and range, all of a row together, and as the bundle
knows them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from src.command.bundle_records import HostModel
from src.contracts import InputError
from src.device import schema
from src.device.runtimes import NAMES
from src.device.schema import LINE, TRUTH, Kind, between, count, optional
from src.device.sensors import PLAUSIBLE

LARGEST_WATTS, LARGEST_UJ = 10_000, 10**12
MICROSECOND_MS, LONGEST_MS = 1e-3, 600_000  # no call of a runtime is shorter; longer ones cannot be measured in turns
MOST_THREADS = 4096
OUTLIERS = 10  # times the 99th percentile that the mean latency may be, for the few calls above it
CLOCK_AHEAD = timedelta(days=1)  # of a board, before this machine's
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)  # of a board whose clock has no battery
ENERGY = ("power_watts", "energy_uj", "energy_source")


def _is_time(value: object) -> bool:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return at is not None and EARLIEST <= at <= datetime.now(UTC) + CLOCK_AHEAD
    except (ValueError, TypeError, OverflowError):  # no date, one without a zone, one that no zone can turn
        return False


TIME = Kind("a time such as 2026-01-02T03:04:05+00:00, not in the future", _is_time)


def _is_runtime(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"(?:{'|'.join(NAMES)})(?: [\w.+/-]+)?", value) is not None


RUNTIME = Kind(
    f"a runtime of the evaluator and its version, such as onnxruntime 1.10.0 ({', '.join(NAMES)})", _is_runtime
)
MILLISECONDS = between(MICROSECOND_MS, LONGEST_MS)
ROW = {
    "name": LINE,
    "accuracy": between(0, 1),
    "images": count(1),
    "size_bytes": count(1),
    "latency_ms": {"p50": MILLISECONDS, "p95": MILLISECONDS, "p99": MILLISECONDS},
    "latency_runs": count(1),
    "steady": TRUTH,
    "temperature_celsius": optional(between(*PLAUSIBLE)),
    "power_watts": optional(between(0, LARGEST_WATTS)),
    "energy_uj": optional(between(0, LARGEST_UJ)),
    "energy_source": optional(LINE),
    "runtime": RUNTIME,
}
RESULTS = {
    "bundle": LINE,
    "board": LINE,
    "python": LINE,
    "platform": LINE,
    "clock_mode": optional(LINE),
    "threads": count(1, MOST_THREADS),
    "measured_at": TIME,
    "rows": [ROW],
}


def check_results(content: Mapping[str, Any]) -> None:
    """Compare each value of a results file with its kind and range, and each row's values with each other.

    Raises:
        InputError: A board cannot have measured this; the message names the row, the column and the value.
    """
    try:
        schema.check(content, RESULTS)
    except schema.InputError as error:
        raise InputError(str(error)) from error
    names = [row["name"] for row in content["rows"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"rows[{twice[0]}] is there {names.count(twice[0])} times, and a bundle writes one row a model"
        )
    for row in content["rows"]:
        _check_row(row)


def check_with_bundle(row: Mapping[str, Any], host: HostModel) -> None:
    """Compare a row with what the record of its bundle knows of the model.

    Raises:
        InputError: The row is of another file, or of more images than the bundle holds.
    """
    place, size, images = f"rows[{row['name']}]", row["size_bytes"], row["images"]
    if host.size_bytes is not None and size != host.size_bytes:
        raise InputError(f"{place}.size_bytes is {size}, and the bundle's file has {host.size_bytes} bytes")
    if host.images is not None and images > host.images:
        raise InputError(f"{place}.images is {images}, and the bundle holds {host.images} test images for this model")


def check_images(rows: Sequence[Mapping[str, Any]], models: Mapping[str, HostModel]) -> str | None:
    """Compare the numbers of images of all rows: an evaluator takes all of a sample, or one number of every sample.

    Returns:
        What a person should know of the accuracies; None if every row has all of its sample.

    Raises:
        InputError: No one call of the bundle gives these numbers.
    """
    counts = [(row["name"], row["images"], models[row["name"]].images) for row in rows]
    fewer = {images for _, images, held in counts if held is not None and images < held}
    if not fewer:
        return None
    given = max(fewer)
    for name, images, held in counts:
        if held is not None and images != min(given, held):
            raise InputError(
                f"rows[{name}].images is {images}, and another row has {given} of more: a bundle tests every model on "
                f"as many images as --images says, or on all of its sample"
            )
    images = f"{given:,} image{'s' * (given != 1)}"
    return f"The accuracies are of {images} a model (--images {given}), fewer than the bundle holds"


def _check_row(row: Mapping[str, Any]) -> None:
    place = f"rows[{row['name']}]"
    hits = row["accuracy"] * row["images"]
    if abs(hits - round(hits)) > 1e-6:
        raise InputError(
            f"{place}.accuracy is {row['accuracy']}, and must be a whole number of its {row['images']} images"
        )
    p50, p95, p99 = (row["latency_ms"][at] for at in ("p50", "p95", "p99"))
    if not p50 <= p95 <= p99:
        raise InputError(f"{place}.latency_ms is {p50}, {p95}, {p99}, and must not fall from p50 to p95 to p99")
    if len({row[column] is None for column in ENERGY}) > 1:
        raise InputError(f"{place} has only some of {', '.join(ENERGY)}: a board measures all of them, or none")
    if row["energy_uj"] is not None:
        _check_energy(row, place)


def _check_energy(row: Mapping[str, Any], place: str) -> None:
    """Energy is power times the mean time of an image: at least half the median, and not far above the slowest."""
    energy, watts, latency = row["energy_uj"], row["power_watts"], row["latency_ms"]
    low, high = (watts * 1000 * ms for ms in (latency["p50"] / 2, OUTLIERS * latency["p99"]))
    if not low <= energy <= high:
        raise InputError(
            f"{place}.energy_uj is {energy}, and {watts} W for {latency['p50']} ms an image make {low:,.4g} to "
            f"{high:,.4g}"
        )
