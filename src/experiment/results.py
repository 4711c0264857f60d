"""Result rows on disk: those of a run, and of a survey over all its members."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from src.contracts import Entry, InputError, Precision, Refused, Row, Runtime
from src.contracts.figures import check_figures
from src.device import schema
from src.device.schema import LINE, TEXT, Kind, between, count, optional
from src.files.records import read_record, write_record
from src.files.writing import write_text
from src.tracking.surveys import REPORTS

RESULTS, METRICS, SURVEY, FAILURE = "results.json", "metrics.json", "survey.json", "failure.json"
SEARCH = "search.json"
STARTED = ".started"  # when the survey of a folder was begun, in seconds since 1970
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
EXPORTED = (".onnx", ".xml", ".bin", ".tflite", ".pt2", ".engine", ".data")  # endings of the parts of exported files
# What the records hold, as far as an older one has it; they may come from anybody.
RUN: Mapping[str, Any] = {
    **dict.fromkeys(("identity", "experiment", "tracking"), LINE),
    **dict.fromkeys(("git_commit", "tracking_uri", "tracking_run", "source"), optional(LINE)),
    **{key: [TEXT] for key in ("overrides", "budget_missed", "files")},
    "seed": count(0),
    "command": TEXT,
    "tracking_error": optional(TEXT),
    "rows": [OBJECT],
    "not_exportable": [{"variant": LINE, "target": LINE, "reason": TEXT}],
}
ROW = dict.fromkeys(("variant", "target", "artifact", "sha256", "identity"), LINE)
FAILED = {"overrides": [TEXT], "reason": TEXT, "kind": LINE}
MEMBERS = {"started": optional(between(0, 1e11)), "members": [LINE], "failed": [{"member": LINE}]}


@dataclass(frozen=True)
class Results:
    """The results of a run; ``results.json`` holds them.

    Attributes:
        identity: Identity of the last stage.
        experiment: Name of the experiment.
        seed: Seed of the run.
        git_commit: Commit of the source; None outside git.
        command: The command that makes the run again.
        overrides: What Hydra was given.
        rows: A row for each (variant, target), the baseline's first.
        not_exportable: Variants that a target has no form for.
        refused: Variants whose file its runtime refused; ``results.json`` has a row without figures for each.
        budget_missed: A line for each limit that does not hold.
        tracking: Name of the ``tracking`` config.
        tracking_uri: Address of the tracking store; None if there is none.
        tracking_run: What the store calls the run.
        tracking_error: Why the store lacks some of it; None if it holds all.
        source: Digest of the source; None in a record of an earlier version.
        files: Names of all parts of the exported files in the run's folder; empty in records of an earlier version.
    """

    identity: str
    experiment: str
    seed: int
    git_commit: str | None
    command: str
    overrides: Sequence[str]
    rows: Sequence[Row]
    not_exportable: Sequence[Refused] = ()
    refused: Sequence[Refused] = ()
    budget_missed: Sequence[str] = ()
    tracking: str = "off"
    tracking_uri: str | None = None
    tracking_run: str | None = None
    tracking_error: str | None = None
    source: str | None = None
    files: Sequence[str] = ()

    @property
    def entries(self) -> list[Entry]:
        """The rows as a table takes them."""
        return [Entry(row) for row in self.rows]

    def write(self, folder: Path) -> None:
        """Write ``results.json`` and ``metrics.json`` (nested dicts only, as ``dvc metrics`` needs).

        Removes the exported files that the earlier run's record lists and this one does not, and what an earlier survey
        or search concluded; a search writes its own after this.
        """
        stale = [*(_listed_files(folder) - set(self.files)), *_files_of_search(folder)]
        write_record(folder / RESULTS, self.record())
        metrics: dict[str, dict[str, dict[str, float]]] = {}
        for row in self.rows:
            metrics.setdefault(row.variant, {})[row.target] = row.numbers()
        write_text(folder / METRICS, json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        stale += REPORTS if (folder / SURVEY).exists() else []
        for name in [FAILURE, SURVEY, *stale]:
            (folder / name).unlink(missing_ok=True)

    def record(self) -> dict[str, Any]:
        """As ``results.json`` holds it."""
        record = {**asdict(self), "not_exportable": _reasons(self.not_exportable)}
        del record["refused"]
        record["rows"] += [refused.row() for refused in self.refused]
        return record

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read a run's ``results.json``.

        Raises:
            InputError: It is damaged, or of a later version.
        """
        path = folder / RESULTS
        record = read_record(path)
        try:
            if record.pop("schema", 1) == 1:
                record = _from_schema_1(record, path)
            _check_known(record, RUN)
            rows = [(row, Refused.of(row)) for row in record["rows"]]
            for number, (row, refused) in enumerate(rows):
                check_figures(row, f"rows[{number}]")
                schema.check(row, ROW if refused is None else {}, f"rows[{number}]")
            record["rows"] = [Row.of(row) for row, refused in rows if refused is None]
            record["refused"] = tuple(refused for _, refused in rows if refused is not None)
            record["not_exportable"] = [Refused(**each) for each in record["not_exportable"]]
            return cls(**record)
        except schema.InputError as error:
            raise InputError(f"{path} is damaged: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged: {type(error).__name__} {error}") from error


def _check_known(record: Mapping[str, Any], table: Mapping[str, Any]) -> None:
    """Compare those values that a record has, and ``table`` knows, with their kinds."""
    schema.check(record, {key: kind for key, kind in table.items() if key in record})


def _listed_files(folder: Path) -> set[str]:
    """Names of the exported files in ``folder`` that the record of a run in it lists.

    The record may have come with the folder: a name without an ending of an exported file is none of them.
    """
    try:
        found = Results.read(folder)
    except (FileNotFoundError, InputError):
        return set()
    names = {*found.files, *(row.artifact for row in found.rows)} - {RESULTS, METRICS}
    if not found.files:  # a record of an earlier version lists only the first part of each file
        names |= {name.removesuffix(".xml") + ".bin" for name in names if name.endswith(".xml")}
    return {path.name for path in folder.iterdir() if path.name in names and path.suffix in EXPORTED and path.is_file()}


def _files_of_search(folder: Path) -> list[str]:
    """Names of what a search concluded with in ``folder``; none if there was no search."""
    return [SEARCH, "front.png", "model_card.md", *REPORTS] if (folder / SEARCH).exists() else []


def _reasons(refused: Sequence[Refused]) -> list[dict[str, str]]:
    return [{"variant": each.variant, "target": each.target, "reason": each.reason} for each in refused]


def _from_schema_1(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A record as it was written before there was a schema: precision and runtime were sentences."""
    if not isinstance(record.get("rows"), list):
        raise InputError(f"{path} is damaged: it holds no rows")
    rows = []
    for row in record["rows"]:
        base = next((o for o in record["rows"] if o["variant"] == "baseline" and o["target"] == row["target"]), None)
        change = None if base is None or base is row else round(row["accuracy"] - base["accuracy"], 9)
        computes, _, stores = row["precision"].partition(", ")
        kept = tuple(stores.removesuffix(" stored").split(" and ")) if stores else ()
        name, _, provider = row["runtime"].partition(" with ")
        name, _, stands_in_for = name.partition(" for ")
        rows.append(
            {
                **row,
                "seed": record["seed"],
                "accuracy_change": change,
                "precision": asdict(Precision(tuple(computes.split(" and ")), kept)),
                "runtime": asdict(Runtime(name, provider or None, stands_in_for or None)),
            }
        )
    tracking = "off" if record.get("tracking_uri") is None else "mlflow"
    return {**record, "rows": rows, "tracking": tracking}


@dataclass(frozen=True)
class Failure:
    """A survey's member that failed; ``failure.json`` holds it.

    Attributes:
        member: Its folder below the survey's.
        overrides: What Hydra was given.
        reason: Why, in one line.
        kind: ``input`` if the user can mend it, else ``error``.
    """

    member: str
    overrides: Sequence[str]
    reason: str
    kind: str


@dataclass(frozen=True)
class Survey:
    """The results of all members of a survey; ``survey.json`` holds it.

    Attributes:
        started: When the survey was begun, in seconds since 1970; None in a record of an earlier version.
        experiment: Name of the experiment.
        members: Folders of the members that came to an end, below the survey's.
        entries: All rows, equal ones once, the baseline's first.
        failed: The members that failed.
        tracking, tracking_uri: As in ``Results``.
        tracking_failed: Members of which the tracking store lacks some.
        budget_missed: By member what misses the budget.
        not_exportable: Variants that a target has no form for.
        refused: Variants whose file its runtime refused; ``survey.json`` has a row without figures for each.
    """

    started: float | None
    experiment: str
    members: Sequence[str]
    entries: Sequence[Entry]
    failed: Sequence[Failure]
    tracking: str
    tracking_uri: str | None
    tracking_failed: Sequence[str]
    budget_missed: Mapping[str, Sequence[str]]
    not_exportable: Sequence[Refused] = field(default_factory=list)
    refused: Sequence[Refused] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [entry.row for entry in self.entries]

    def record(self) -> dict[str, Any]:
        """As ``survey.json`` holds it; each row has ``settings`` and ``member``."""
        entries = [{**asdict(e.row), "settings": list(e.settings), "member": e.member} for e in self.entries]
        entries += [{**refused.row(), "settings": [], "member": ""} for refused in self.refused]
        content = {**asdict(replace(self, entries=())), "not_exportable": _reasons(self.not_exportable)}
        del content["entries"], content["refused"]
        return {**content, "rows": entries}


def write_failure(folder: Path, *, overrides: Sequence[str], reason: str, kind: str) -> None:
    """Write why a survey's member failed; ``kind`` is ``input`` or ``error``. It counts until the member succeeds."""
    write_record(folder / FAILURE, {"overrides": list(overrides), "reason": reason, "kind": kind})


def begin_survey(folder: Path) -> None:
    """Begin a survey in ``folder``, perhaps that of an earlier one.

    From now on ``survey.json`` takes up no member but those that end after this. What the earlier survey wrote stays
    until a member ends; the folders of members that only the earlier one had stay, and nothing lists them.
    """
    write_text(folder / STARTED, f"{time.time()!r}\n")


def survey_started(folder: Path) -> float | None:
    """When the survey of ``folder`` was begun; None if nothing says it."""
    try:
        return float((folder / STARTED).read_text())
    except (FileNotFoundError, ValueError):
        return None


def write_survey(folder: Path, ended: Collection[str] = ()) -> Survey:
    """Write ``survey.json`` with the members that have ended since the survey was begun; safe beside other members.

    Args:
        folder: Folder of the survey.
        ended: Folders below it of members that have ended now; those that it lists already stay.

    Returns:
        What it holds.
    """
    from filelock import FileLock

    with FileLock(folder / ".survey.lock"):
        started = survey_started(folder)
        record = _survey_record(folder)
        known = _members(record) if record.get("started") == started else set()
        survey = _gathered(folder, {*known, *ended}, started)
        first = ended and not known
        # Of an earlier single run or search.
        stale = [RESULTS, METRICS, *_files_of_search(folder), *_listed_files(folder)] if first else []
        write_record(folder / SURVEY, survey.record())
        for name in stale:
            (folder / name).unlink(missing_ok=True)
    return survey


def gather_survey(folder: Path) -> Survey:
    """The results of the members that ``survey.json`` lists; of all below ``folder`` if it has no such list."""
    record = _survey_record(folder)
    members = _members(record) if "members" in record else {path.name for path in folder.iterdir()}
    return _gathered(folder, members, record.get("started"))


def _survey_record(folder: Path) -> dict[str, Any]:
    try:
        return _checked_record(folder / SURVEY, MEMBERS)
    except FileNotFoundError:
        return {}


def _checked_record(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose values are of the kinds that ``table`` names.

    Raises:
        InputError: It is damaged, or of a later version.
        FileNotFoundError: There is no such file.
    """
    record = read_record(path)
    try:
        _check_known(record, table)
    except schema.InputError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return record


def _members(record: Mapping[str, Any]) -> set[str]:
    """The members that a survey's record lists: those that succeeded, and those that failed."""
    return {*record.get("members", ()), *(failure["member"] for failure in record.get("failed", ()))}


def _gathered(folder: Path, ended: Collection[str], started: float | None) -> Survey:
    members = sorted(
        (path for path in folder.iterdir() if path.is_dir() and path.name in ended),
        key=lambda path: (len(path.name.split("_")[0]), path.name),
    )
    failed = {m.name: _failure(m) for m in members if (m / FAILURE).exists()}
    results = {m.name: Results.read(m) for m in members if m.name not in failed and (m / RESULTS).exists()}
    given = [set(result.overrides) for result in results.values()]
    varied = {override for each in given for override in each if not all(override in other for other in given)}
    entries: dict[tuple[str, ...], Entry] = {}
    for member, result in results.items():
        for row in result.rows:
            settings = [o for o in result.overrides if o in varied and not o.startswith(("seed=", "method="))]
            if row.variant == "baseline":
                settings = [setting for setting in settings if not setting.startswith("method.")]
            key = (*measurement_of(row), *settings)
            entries.setdefault(key, Entry(row, tuple(settings), member))
    first = next(iter(results.values()), None)
    return Survey(
        started=started,
        experiment=first.experiment if first else folder.parent.name,
        members=sorted(results),
        entries=sorted(entries.values(), key=lambda entry: entry.row.variant != "baseline"),
        failed=list(failed.values()),
        tracking=first.tracking if first else "off",
        tracking_uri=first.tracking_uri if first else None,
        tracking_failed=sorted(member for member, result in results.items() if result.tracking_error),
        budget_missed={member: result.budget_missed for member, result in results.items() if result.budget_missed},
        not_exportable=[each for result in results.values() for each in result.not_exportable],
        refused=list(dict.fromkeys(each for result in results.values() for each in result.refused)),
    )


def _failure(folder: Path) -> Failure:
    record = {"overrides": [], "reason": "unknown", "kind": "error", **_checked_record(folder / FAILURE, FAILED)}
    return Failure(folder.name, record["overrides"], record["reason"], record["kind"])


def measurement_of(row: Row) -> tuple[str, ...]:
    """The same for rows of one file and measurement, as members of a survey share the baseline's."""
    return row.identity, row.target, str(row.precision), row.variant, row.sha256
