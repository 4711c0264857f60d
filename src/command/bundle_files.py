"""The exported files of runs, each checked to be the one that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.command.bundle_records import TrackedRun
from src.command.composition import target_of
from src.command.given import SPLITS
from src.command.trust import check_config, read_config
from src.contracts import Entry, InputError
from src.experiment.results import RESULTS, SURVEY, Results, gather_survey, measurement_of
from src.metrics.size import parts_of, sha256
from src.stages.store import StageStore


@dataclass(frozen=True)
class MeasuredFile:
    """An exported file that a run measured.

    Attributes:
        entry: Its result row, and what its survey varies.
        parts: The parts of the file; a runtime is given the first.
        config: Resolved config of the run.
        data_checksum: Checksum of the data that the run's baseline was trained on; None if that stage is gone.
        tracked: The run in its tracking store; None if the run was not tracked.
    """

    entry: Entry
    parts: tuple[Path, ...]
    config: Mapping[str, Any]
    data_checksum: str | None
    tracked: TrackedRun | None


def measured_files(runs: Sequence[Path], *, trust: bool = False) -> list[MeasuredFile]:
    """The files of runs and surveys; one that several of them hold is taken from the first.

    Args:
        runs: Folders of runs and surveys.
        trust: Whether their ``config.yaml`` may name any class.

    Raises:
        InputError: A folder holds no results, a file is not the one that was measured, or a config names a class that
            does not stand in ``conf/``.
    """
    found = [file for run in reversed(runs) for file in _files_of(run, trust)]
    return list({measurement_of(file.entry.row): file for file in found}.values())


def _files_of(run: Path, trust: bool) -> Iterator[MeasuredFile]:
    folders = _entries(run)
    if not folders:
        raise InputError(f"{run} has no result row: every member of it failed")
    for folder, entries in folders.items():
        results, config = Results.read(folder), _config(folder, trust)
        checksum, tracked = _data_checksum(results, config), _tracked(results)
        for entry in entries:
            yield MeasuredFile(entry, _checked_parts(folder, entry, trust), config, checksum, tracked)


def _entries(run: Path) -> dict[Path, list[Entry]]:
    """The result rows of a run, or of a survey's members, by the folder that holds their files."""
    if (run / SURVEY).is_file():
        folders: dict[Path, list[Entry]] = {}
        for entry in gather_survey(run).entries:
            folders.setdefault(run / entry.member, []).append(entry)
        return folders
    if (run / RESULTS).is_file():
        return {run: Results.read(run).entries}
    raise InputError(f"{run} is no run and no survey: it has no {RESULTS} and no {SURVEY}")


def _checked_parts(folder: Path, entry: Entry, trust: bool) -> tuple[Path, ...]:
    if Path(entry.row.artifact).name != entry.row.artifact:
        raise InputError(f"{folder / RESULTS} is damaged: {entry.row.artifact} is no name of a file in its folder")
    file = folder / entry.row.artifact
    if not file.is_file():
        raise InputError(f"{file} is not there: run it again")
    parts = parts_of(target_of(file, trust=trust), file)
    if sha256(parts) != entry.row.sha256:
        raise InputError(f"{file} is not the file that was measured (another checksum): run it again")
    return parts


def _config(folder: Path, trust: bool) -> dict[str, Any]:
    path = folder / "config.yaml"
    config = read_config(path)
    if not isinstance(config.get("data"), dict) or not isinstance(config.get("artifacts"), str):
        raise InputError(f"{path} is damaged: it names no data or no artifacts")
    if config["data"].get("_target_") == SPLITS:
        raise InputError(
            f"{folder}: its data are loaders or tensors of a program, which no command can load again; give compress "
            f"data=dataset(NAME), or an object with load(), and bundle that"
        )
    if not trust:
        check_config(config["data"], "data", "data", path)
    return config


def _data_checksum(results: Results, config: Mapping[str, Any]) -> str | None:
    baseline = next((row.identity for row in results.rows if row.variant == "baseline"), None)
    record = StageStore(Path(config["artifacts"])).record(baseline) if baseline is not None else None
    spec = record.get("spec") if record else None
    checksum = spec.get("checksum") if isinstance(spec, dict) else None
    return checksum if isinstance(checksum, str) else None


def _tracked(results: Results) -> TrackedRun | None:
    if results.tracking_uri is None or results.tracking_run is None or results.tracking_error is not None:
        return None
    return TrackedRun(results.tracking, results.tracking_uri, results.tracking_run)
