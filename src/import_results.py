"""Put what a board measured beside the host's runs: ``python -m src.import_results device_results.json``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import command

if TYPE_CHECKING:
    from src.tracking.device import DeviceRow

FORMAT = 1
SPOKEN = ("board", "python", "platform", "clock_mode", "threads", "measured_at", "bundle")
NUMBERS = ("accuracy", "size_bytes", "temperature_celsius", "power_watts", "energy_uj")
FROM_HOST = ("variant", "target", "data", "model", "precision", "identity", "sha256", "seed")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.import_results", description=__doc__)
    parser.add_argument("file", type=Path, help="that a bundle wrote on the board, e.g. device_results.json")
    parser.add_argument(
        "--artifacts", type=Path, default=Path("artifacts"), help="where src.bundle remembered the bundle (%(default)s)"
    )
    arguments = parser.parse_args()
    return command.run_command(lambda: import_results(arguments.file, arguments.artifacts))


def import_results(file: Path, artifacts: Path) -> int:
    """Make a run in the tracking store for each row of ``file`` that was not imported before."""
    from src.contracts import InputError
    from src.tracking.device import digest_of, log_device_rows

    content = _read(file)
    known = _bundle(content, artifacts, file)
    stores: dict[str, list[DeviceRow]] = {}
    untracked = []
    try:
        for row in content["rows"]:
            host = known["models"][row["name"]]
            if host["tracking"] is None:
                untracked.append(row["name"])
            else:
                stores.setdefault(host["tracking"]["uri"], []).append(_device_row(row, content, host))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file} is not as a bundle writes it: {type(error).__name__} {error}") from error
    if not stores:
        raise InputError(
            f"The runs that made bundle {content['bundle']} were not tracked: there is nowhere to put results"
        )
    for uri, rows in stores.items():
        made, there = log_device_rows(uri, digest_of(content), rows, file)
        before = f", {there} were there already" if there else ""
        print(f"{made} rows of {content['board']} are now in {uri} beside the host's{before}")
    if untracked:
        print(f"Not imported, since their runs were not tracked: {', '.join(untracked)}")
    return command.DONE


def _read(file: Path) -> dict[str, Any]:
    from src.contracts import InputError

    if not file.is_file():
        raise InputError(f"There is no file {file}")
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} holds no results of a board: {error}") from error
    rows = content.get("rows") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    ):
        raise InputError(f"{file} holds no results of a board: a bundle writes them when it is run there")
    if not content["rows"]:
        raise InputError(f"{file} has no row: nothing could be run on the board")
    return content


def _bundle(content: Mapping[str, Any], artifacts: Path, file: Path) -> dict[str, Any]:
    """What ``src.bundle`` remembered of the bundle."""
    from src.contracts import InputError
    from src.tracking.device import BUNDLES

    named = str(content.get("bundle"))
    path = artifacts / BUNDLES / f"{named}.json"
    if not named.isalnum() or not path.is_file():
        raise InputError(
            f"{file} comes from bundle {named}, which is not known in {artifacts}/: import it where the bundle "
            "was made, or name its folder by --artifacts"
        )
    try:
        known: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(known, dict) or not isinstance(known.get("models"), dict):
        raise InputError(f"{path} is damaged: it names no models")
    unknown = [str(row.get("name")) for row in content["rows"] if row.get("name") not in known["models"]]
    if unknown:
        raise InputError(f"{file} has rows that bundle {named} has no model for: {', '.join(unknown)}")
    return known


def _device_row(row: Mapping[str, Any], content: Mapping[str, Any], host: Mapping[str, Any]) -> DeviceRow:
    from src.tracking.device import DeviceRow

    numbers = {key: row[key] for key in NUMBERS if row[key] is not None}
    metrics = {key: float(value) for key, value in numbers.items()}
    metrics |= {f"latency_ms_{at}": float(row["latency_ms"][at]) for at in ("p50", "p95", "p99")}
    wrong = [key for key, value in metrics.items() if not math.isfinite(value)]
    if wrong or not 0 <= metrics["accuracy"] <= 1:
        raise ValueError(f"{row['name']}: {', '.join(wrong) or 'accuracy'} is no number that a board can measure")
    tags = {key: str(content[key]) for key in SPOKEN if content[key] is not None}
    tags |= {key: str(host["row"][key]) for key in FROM_HOST}
    tags |= {"runtime": str(row["runtime"]), "images": str(row["images"])}
    if row["energy_source"] is not None:
        tags["energy_source"] = str(row["energy_source"])
    return DeviceRow(host["tracking"]["run"], row["name"], metrics, tags)


if __name__ == "__main__":
    sys.exit(main())
