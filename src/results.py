"""Result rows on disk: a run's, and a survey's over all its members."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.contracts import Refused, Row

RESULTS, METRICS, SURVEY, FAILURE = "results.json", "metrics.json", "survey.json", "failure.json"
SEARCH = "search.json"


@dataclass(frozen=True)
class Budget:
    """What must hold, measured on the exported file; accuracy on validation data.

    Attributes:
        accuracy_drop: Largest loss against the baseline's file of the same target, as a share (0.005 is half a point).
        size_bytes: Largest file.
        size_gzip_bytes: Largest file when compressed by gzip.
        latency_ms: Largest median time of one image.
        energy_uj: Largest energy of one image, as estimated by counting.
    """

    accuracy_drop: float | None
    size_bytes: float | None
    size_gzip_bytes: float | None
    latency_ms: float | None
    energy_uj: float | None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = None if name == "accuracy_drop" else 0
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} must be a number, and is {value}")
            if least is not None and value <= least:
                raise ValueError(f"{name} must be more than {least}, and is {value}")

    def misses(self, rows: Sequence[Row], refused: Sequence[Refused] = ()) -> list[str]:
        """One line for each row and limit that does not hold; the baseline is not judged beside a variant.

        Args:
            rows: Of a run.
            refused: What has no file; it misses whatever limit there is.
        """
        baselines = {row.target: row for row in rows if row.variant == "baseline"}
        judged = [row for row in rows if row.variant != "baseline"] or list(rows)
        lines = []
        if any(limit is not None for limit in asdict(self).values()):
            lines += [
                f"{each.variant} on {each.target}: there is no file" for each in refused if each.variant != "baseline"
            ]
        for row in judged:
            where = f"{row.variant} on {row.target}"
            base = baselines.get(row.target)
            drop = 0.0 if base is None else round(base.accuracy_validation - row.accuracy_validation, 9)
            if self.accuracy_drop is not None and base is None:
                lines.append(f"{where}: the baseline has no file to compare its accuracy with")
            if self.accuracy_drop is not None and drop > self.accuracy_drop:
                lines.append(f"{where}: validation accuracy fell by {drop:.4f}, allowed are {self.accuracy_drop}")
            if self.size_bytes is not None and row.size_bytes > self.size_bytes:
                lines.append(f"{where}: the file has {row.size_bytes:,} bytes, allowed are {self.size_bytes:,}")
            if self.size_gzip_bytes is not None and row.size_gzip_bytes > self.size_gzip_bytes:
                lines.append(
                    f"{where}: gzipped, the file has {row.size_gzip_bytes:,} bytes, allowed are "
                    f"{self.size_gzip_bytes:,}"
                )
            if self.latency_ms is not None and row.latency_ms_p50 is None:
                lines.append(f"{where}: latency was not measured, so that {self.latency_ms} ms cannot be kept")
            elif (
                self.latency_ms is not None and row.latency_ms_p50 is not None and row.latency_ms_p50 > self.latency_ms
            ):
                lines.append(f"{where}: one image takes {row.latency_ms_p50:.3f} ms, allowed are {self.latency_ms}")
            if self.energy_uj is not None and row.energy_uj_estimate is None:
                lines.append(f"{where}: energy cannot be estimated, so that {self.energy_uj} uJ cannot be kept")
            elif (
                self.energy_uj is not None
                and row.energy_uj_estimate is not None
                and row.energy_uj_estimate > self.energy_uj
            ):
                lines.append(
                    f"{where}: one image takes about {row.energy_uj_estimate:.4g} uJ, allowed are {self.energy_uj}"
                )
        return lines


def write_results(folder: Path, rows: Sequence[Row], header: Mapping[str, Any]) -> None:
    """Write ``results.json`` and ``metrics.json`` (nested dicts only, as ``dvc metrics`` needs)."""
    (folder / FAILURE).unlink(missing_ok=True)
    _write(folder / RESULTS, {**header, "rows": [asdict(row) for row in rows]})
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        numbers = {
            key: value
            for key, value in asdict(row).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        metrics.setdefault(row.variant, {})[row.target] = numbers
    _write(folder / METRICS, metrics)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``results.json``, each with the run's seed."""
    result = json.loads((folder / RESULTS).read_text())
    return [{**row, "seed": result["seed"]} for row in result["rows"]]


def write_search(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``search.json``: every trial of a search, its front and what was chosen."""
    _write(folder / SEARCH, content)


def write_failure(folder: Path, *, overrides: Sequence[str], reason: str, kind: str) -> None:
    """Write why a survey's member failed; ``kind`` is ``input`` or ``error``."""
    (folder / RESULTS).unlink(missing_ok=True)
    _write(folder / FAILURE, {"overrides": list(overrides), "reason": reason, "kind": kind})


def write_survey(folder: Path) -> dict[str, Any]:
    """Gather the members below ``folder`` into ``survey.json`` and return it; safe beside other members."""
    from filelock import FileLock

    with FileLock(folder / ".survey.lock"):
        survey = gather_survey(folder)
        _write(folder / SURVEY, survey)
    return survey


def gather_survey(folder: Path) -> dict[str, Any]:
    """All rows of the members below ``folder``, equal ones once, and each failed member with its reason.

    Each row gains ``seed``, ``settings`` (what the survey varies beside method and seed) and ``member`` (its folder).
    """
    members = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: (len(p.name.split("_")[0]), p.name))
    results = {m.name: json.loads((m / RESULTS).read_text()) for m in members if (m / RESULTS).exists()}
    failed = {m.name: json.loads((m / FAILURE).read_text()) for m in members if (m / FAILURE).exists()}
    every = [set(result["overrides"]) for result in results.values()]
    varied = set().union(*every) - set.intersection(*every) if every else set()
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for member, result in results.items():
        for row in result["rows"]:
            settings = [o for o in result["overrides"] if o in varied and not o.startswith(("seed=", "method="))]
            if row["variant"] == "baseline":
                settings = [o for o in settings if not o.startswith("method.")]
            key = (row["identity"], row["target"], row["precision"], row["variant"], row["sha256"], *settings)
            rows.setdefault(key, {**row, "seed": result["seed"], "settings": settings, "member": member})
    return {
        "experiment": next((result["experiment"] for result in results.values()), folder.parent.name),
        "members": sorted(results),
        "tracking_uri": next((result["tracking_uri"] for result in results.values()), None),
        "rows": sorted(rows.values(), key=lambda row: row["variant"] != "baseline"),
        "failed": [{"member": member, **failure} for member, failure in failed.items()],
        "tracking_failed": sorted(m for m, r in results.items() if r["tracking_error"]),
        "budget_missed": {m: r["budget_missed"] for m, r in results.items() if r["budget_missed"]},
        "not_exportable": [refused for result in results.values() for refused in result["not_exportable"]],
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(part, path)


def discard(folder: Path) -> None:
    """Remove the folder of a run or search in which nothing was made."""
    made = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.log", "config.yaml")]
    if not made:
        shutil.rmtree(folder, ignore_errors=True)
