"""What a report is about: result rows, each with its run, its file and its stages, read from folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.contracts import Entry, InputError, Row
from src.display.tables import refusals
from src.experiment.results import (
    FAILURE,
    RESULTS,
    SEARCH,
    SURVEY,
    Results,
    gather_survey,
    measurement_of,
)
from src.files.records import read_record
from src.stages.store import StageStore

SENSITIVITY = "sensitivity.json"
RECORDS = (SURVEY, SEARCH, RESULTS, SENSITIVITY)
BEGUN = (FAILURE, "config.yaml", "run.log")  # what stands in the folder of a run that did not end
LONGEST_CHAIN = 50
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """A result row of the report.

    Attributes:
        name: What the report calls it; no two items of a section are called the same.
        entry: The row, and what its survey varied.
        folder: The folder that holds the row's file.
        command: The command that makes it again.
        git_commit: Commit of the source; None outside git.
        stages: The finished stages from the baseline to the row's own, by identity, as far as they are here.
        artifacts: Folder of the stages.
    """

    name: str
    entry: Entry
    folder: Path
    command: str
    git_commit: str | None
    stages: Mapping[str, Record]
    artifacts: Path

    @property
    def row(self) -> Row:
        return self.entry.row


@dataclass(frozen=True)
class Section:
    """The rows of one data set.

    Attributes:
        data: Name of the data set.
        checksum: Its SHA-256; None if no stage that says it is here.
        items: Its rows.
        sensitivity: Analyses of the layers of its baselines, as ``sensitivity.json`` holds them.
    """

    data: str
    checksum: str | None
    items: Sequence[Item]
    sensitivity: Sequence[Record] = ()

    def baseline_of(self, item: Item) -> Item | None:
        """The baseline that ``item`` is compared with; None for a baseline, or if there is none."""
        if item.row.variant == "baseline":
            return None
        wanted = (item.row.target, item.row.model, item.row.seed)
        bases = [each for each in self.items if each.row.variant == "baseline"]
        same = [each for each in bases if (each.row.target, each.row.model, each.row.seed) == wanted]
        own = [each for each in same if each.row.identity in item.stages]
        return next(iter([*own, *same]), None)


@dataclass
class Gathered:
    """All that a report is about.

    Attributes:
        title: Its title.
        folders: The folders that were read.
        sections: Rows by data set.
        notes: What fell short, in lines.
        searches: Records of searches, by the name of their folder.
    """

    title: str
    folders: Sequence[Path]
    sections: list[Section] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    searches: dict[str, Record] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    entry: Entry
    folder: Path
    command: str
    git_commit: str | None


def gather(folders: Sequence[Path], artifacts_of: Callable[[Path], Path]) -> Gathered:
    """Read runs, surveys and searches.

    Args:
        folders: Their folders.
        artifacts_of: Returns the folder of the stages that a run in a folder made.

    Raises:
        InputError: None of them holds anything that can be shown, or a record is damaged.
    """
    names = list(dict.fromkeys(_title(folder) for folder in folders))
    gathered = Gathered(", ".join(names), folders)
    found: dict[tuple[Any, ...], _Found] = {}
    analyses: list[Record] = []
    for folder in folders:
        for each in _rows_in(folder, gathered):
            found.setdefault((*measurement_of(each.entry.row), each.entry.row.seed, *each.entry.settings), each)
        analyses += _analyses(folder)
    by_data: dict[tuple[str, str | None], list[Item]] = {}
    for each in found.values():
        artifacts = artifacts_of(each.folder)
        stages = stages_of(each.entry.row.identity, artifacts)
        item = Item("", each.entry, each.folder, each.command, each.git_commit, stages, artifacts)
        by_data.setdefault((each.entry.row.data, _checksum(stages)), []).append(item)
    for (data, checksum), items in _joined(by_data).items():
        known = {identity for item in items for identity in [item.row.identity, *item.stages]}
        fitting = [each for each in analyses if each.get("identity") in known]
        gathered.sections.append(Section(data, checksum, _named(items), fitting))
    if not gathered.sections and not gathered.notes:
        raise InputError(f"{', '.join(map(str, folders))}: there is no result to report")
    return gathered


def holds_records(folder: Path) -> bool:
    """Whether a folder is that of a run, survey or search, ended or not."""
    return any((folder / name).is_file() for name in (*RECORDS, *BEGUN))


def stages_of(identity: str, artifacts: Path) -> dict[str, Record]:
    """The finished stages from the baseline to ``identity``, in that order, as far as ``artifacts`` has them."""
    store, chain = StageStore(artifacts), dict[str, Record]()
    wanted: Any = identity
    while isinstance(wanted, str) and wanted.isalnum() and wanted not in chain and len(chain) < LONGEST_CHAIN:
        record = store.record(wanted)
        if record is None or not isinstance(record.get("spec"), dict):
            break
        chain[wanted] = record
        wanted = record["spec"].get("input")
    return dict(reversed(chain.items()))


def _title(folder: Path) -> str:
    """What a person calls a folder: ``digits_quickstart 2026-11-27_19-00-00``."""
    resolved = folder.resolve()
    return f"{resolved.parent.name} {resolved.name}".strip()


def _rows_in(folder: Path, gathered: Gathered) -> Iterator[_Found]:
    """The rows of a folder; what fell short there comes to the notes of ``gathered``."""
    if (folder / SEARCH).is_file():
        yield from _rows_of_search(folder, gathered)
    elif (folder / SURVEY).is_file():
        yield from _rows_of_survey(folder, gathered)
    elif (folder / RESULTS).is_file():
        results = Results.read(folder)
        gathered.notes += [*refusals([*results.not_exportable, *results.refused]), *results.budget_missed]
        for row in results.rows:
            yield _Found(Entry(row), folder, results.command, results.git_commit)
    elif not (folder / SENSITIVITY).is_file():
        gathered.notes.append(_unfinished(folder))


def _unfinished(folder: Path) -> str:
    """What is known of a run without results."""
    if not holds_records(folder):
        raise InputError(f"{folder} holds no results: no {', '.join(RECORDS[:3])}")
    if (folder / FAILURE).is_file():
        reason = str(read_record(folder / FAILURE).get("reason", "unknown"))
        return f"{folder.name} failed: {reason}"
    return (
        f"{folder} holds no results: its command was cut off, or is still at work; the same command goes on from there."
    )


def _rows_of_survey(folder: Path, gathered: Gathered) -> Iterator[_Found]:
    survey = gather_survey(folder)
    gathered.notes += refusals([*survey.not_exportable, *survey.refused])
    gathered.notes += [f"{member} misses the budget: {'; '.join(why)}" for member, why in survey.budget_missed.items()]
    gathered.notes += [f"{failure.member} failed: {failure.reason}" for failure in survey.failed]
    ended = {*survey.members, *(failure.member for failure in survey.failed)}
    begun = sorted(path.name for path in folder.iterdir() if path.is_dir() and holds_records(path))
    cut_off = [name for name in begun if name not in ended]
    gathered.notes += [f"{name} left no results: it was cut off, or is still at work." for name in cut_off]
    if not survey.entries and not gathered.notes:
        gathered.notes.append(f"{folder} holds no results yet.")
    for entry in survey.entries:
        member = folder / entry.member
        results = Results.read(member)
        yield _Found(entry, member, results.command, results.git_commit)


def _rows_of_search(folder: Path, gathered: Gathered) -> Iterator[_Found]:
    record = read_record(folder / SEARCH)
    commands = record.get("commands")
    commands = commands if isinstance(commands, dict) else {}
    gathered.searches[_title(folder)] = record
    failed = [each for each in record.get("trials", ()) if isinstance(each, dict) and each.get("failed")]
    gathered.notes += [f"Trial {each.get('number')} failed: {each['failed']}" for each in failed]
    if not (folder / RESULTS).is_file():
        gathered.notes.append(f"{folder} holds no results: the search ended before its finalists were measured.")
        return
    results = Results.read(folder)
    trials = sorted(path for path in folder.glob("trial_*") if (path / RESULTS).is_file())
    for row in results.rows:
        place = next((path for path in [folder, *trials] if (path / row.artifact).is_file()), folder)
        command = str(commands.get(row.variant.removeprefix("trial_"), results.command))
        yield _Found(Entry(row), place, command, results.git_commit)


def _analyses(folder: Path) -> list[Record]:
    """The analyses of layers in a folder, and in the other folders of ``outputs`` if it is one of them."""
    outputs = folder.resolve().parent.parent
    near = [folder, *(sorted(outputs.glob("*/*")) if outputs.name == "outputs" else ())]
    found: dict[str, Record] = {}
    for place in near:
        if (place / SENSITIVITY).is_file():
            try:
                record = read_record(place / SENSITIVITY)
            except InputError:
                continue
            found[str(record.get("identity"))] = record
    return list(found.values())


def _checksum(stages: Mapping[str, Record]) -> str | None:
    """The checksum of the data that a chain of stages began with."""
    for record in stages.values():
        checksum = record["spec"].get("checksum")
        return checksum if isinstance(checksum, str) else None
    return None


def _joined(by_data: Mapping[tuple[str, str | None], list[Item]]) -> dict[tuple[str, str | None], list[Item]]:
    """Rows whose data is known by name alone stand beside those of the same name, if there is one data set of it."""
    joined: dict[tuple[str, str | None], list[Item]] = {}
    for (data, checksum), items in by_data.items():
        sums = {each for name, each in by_data if name == data and each is not None}
        key = (data, next(iter(sums)) if checksum is None and len(sums) == 1 else checksum)
        joined.setdefault(key, []).extend(items)
    return joined


def _named(items: Sequence[Item]) -> list[Item]:
    """The items, baselines first, each with a name of its own: its variant, and whatever else tells it from others."""
    ordered = sorted(items, key=lambda item: item.row.variant != "baseline")
    several = {key: len({getattr(item.row, key) for item in ordered}) > 1 for key in ("model", "target", "seed")}
    names: dict[str, int] = {}
    named = []
    for item in ordered:
        row = item.row
        parts = [row.variant]
        parts += [row.model] if several["model"] else []
        parts += [each for each in item.entry.settings if not each.startswith(("model=", "data="))]
        parts += [row.target] if several["target"] else []
        parts += [f"seed {row.seed}"] if several["seed"] else []
        name = " · ".join(parts)
        names[name] = names.get(name, 0) + 1
        named.append(replace(item, name=name if names[name] == 1 else f"{name} ({names[name]})"))
    return named
