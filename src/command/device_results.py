"""What a board measured, put beside the runs that made its models."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.command.bundle_records import BundleRecord, HostModel, TrackedRun
from src.command.composition import tracker_of
from src.command.device_figures import check_images, check_results, check_with_bundle
from src.contracts import DeviceRow, InputError
from src.device.schema import read_json
from src.tracking.device import digest_of

FORMATS = (1,)  # of results files that can be read
BOARD_FACTS = ("board", "python", "platform", "clock_mode", "threads", "measured_at", "bundle")
NUMBERS = ("accuracy", "size_bytes", "temperature_celsius", "power_watts", "energy_uj")
PERCENTILES = ("p50", "p95", "p99")

Store = tuple[str, str]  # name of the tracking config, and address


def import_results(file: Path, artifacts: Path, uri: str | None = None) -> Iterator[str]:
    """Make a run in the tracking store for each row of ``file`` that was not imported before.

    Args:
        file: What a bundle wrote on the board.
        artifacts: Folder that keeps the bundle's record.
        uri: Address of a store that may get rows, beside those of ``conf/tracking``.

    Yields:
        A line for a person as soon as a store has its rows.

    Raises:
        InputError: A figure is impossible or does not fit the bundle, the bundle is not known here, none of its models
            was tracked, or its record names a store that the user does not. Nothing was imported.
        TrackingError: A store refuses.
    """
    content = _read(file)
    bundle = _bundle_of(content, artifacts, file)
    try:
        remark = check_images(content["rows"], bundle.models)
    except InputError as error:
        raise InputError(f"{file} does not fit bundle {bundle.id}: {error}") from error
    stores, untracked = _by_store(content, bundle)
    if not stores:
        raise InputError(f"The runs that made bundle {bundle.id} were not tracked: there is nowhere to put results")
    for name, address in stores:
        _check_store(bundle, name, address, uri)
    for (name, address), rows in stores.items():
        made, found = tracker_of(name, address).device_rows(digest_of(content), rows, file)
        before = f", {found} were there already" if found else ""
        yield f"{made} rows of {content['board']} are now in {address} beside the host's{before}"
    if remark is not None:
        yield remark
    if untracked:
        yield f"Not imported, since their runs were not tracked: {', '.join(untracked)}"


def _check_store(bundle: BundleRecord, name: str, address: str, given: str | None) -> None:
    """Compare the store that a bundle's record names with the user's own: the record came with a folder of results.

    Raises:
        InputError: Neither ``conf/tracking`` nor the user names that store.
    """
    own = tracker_of(name, None).uri
    if address not in (own, given):
        raise InputError(
            f"The runs of bundle {bundle.id} were tracked at {address}, and conf/tracking/{name}.yaml names {own}: if "
            f"you trust the first, --uri {shlex.quote(address)} puts the rows there"
        )


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"There is no file {file}")
    try:
        content = read_json(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} holds no results of a board: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is not int or found not in FORMATS:
        raise InputError(f"{file} holds no results of a board: a bundle writes them when it is run there")
    try:
        check_results(content)
    except InputError as error:
        raise InputError(f"{file} is not as a bundle writes it: {error}") from error
    if not content["rows"]:
        raise InputError(f"{file} has no row: nothing could be run on the board")
    return dict(content)


def _bundle_of(content: Mapping[str, Any], artifacts: Path, file: Path) -> BundleRecord:
    """The record of the bundle that was run; it knows every model of the results."""
    name = content["bundle"]
    bundle = BundleRecord.find(artifacts, name)
    if bundle is None:
        raise InputError(
            f"{file} comes from bundle {name}, which is not known in {artifacts}/: import it where the bundle "
            "was made, or name its folder by --artifacts"
        )
    unknown = [row["name"] for row in content["rows"] if row["name"] not in bundle.models]
    if unknown:
        raise InputError(f"{file} has rows that bundle {name} has no model for: {', '.join(unknown)}")
    for row in content["rows"]:
        try:
            check_with_bundle(row, bundle.models[row["name"]])
        except InputError as error:
            raise InputError(f"{file} does not fit bundle {name}: {error}") from error
    return bundle


def _by_store(content: Mapping[str, Any], bundle: BundleRecord) -> tuple[dict[Store, list[DeviceRow]], Sequence[str]]:
    """The rows for each tracking store, and the names of the models that none has."""
    stores: dict[Store, list[DeviceRow]] = {}
    untracked = []
    for row in content["rows"]:
        host = bundle.models[row["name"]]
        if host.tracked is None:
            untracked.append(row["name"])
        else:
            store = host.tracked.name, host.tracked.uri
            stores.setdefault(store, []).append(_device_row(row, content, host, host.tracked))
    return stores, untracked


def _device_row(row: Mapping[str, Any], content: Mapping[str, Any], host: HostModel, tracked: TrackedRun) -> DeviceRow:
    metrics = {key: float(row[key]) for key in NUMBERS if row[key] is not None}
    metrics |= {f"latency_ms_{at}": float(row["latency_ms"][at]) for at in PERCENTILES}
    tags = {key: str(content[key]) for key in BOARD_FACTS if content[key] is not None}
    tags |= {**host.facts, "runtime": row["runtime"], "images": str(row["images"])}
    if row["energy_source"] is not None:
        tags["energy_source"] = row["energy_source"]
    return DeviceRow(tracked.run, row["name"], metrics, tags)
