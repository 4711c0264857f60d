"""What the lines of a journal may hold: it lies in a folder of results, which may come from anybody."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import PurePath
from typing import Any, TypeVar

from src.contracts import Epoch, TrackingError
from src.contracts.figures import check_figures
from src.device import schema
from src.device.schema import LINE, TEXT, TRUTH, Kind, between, count, optional
from src.tracking.event_file import EventFile

T = TypeVar("T")
LATEST = 1e11  # seconds since 1970


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _is_file_name(value: object) -> bool:
    return LINE.holds(value) and PurePath(str(value)).name == value and value != ".." and "\\" not in str(value)


def _is_experiment(value: object) -> bool:
    """MLflow makes a folder of this name: it must not lead out of the one of all experiments."""
    return LINE.holds(value) and not PurePath(str(value)).is_absolute() and ".." not in PurePath(str(value)).parts


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(datetime.fromisoformat(value).timestamp())
    except (ValueError, OverflowError):
        return False


def _is_object_of(kind: Kind, value: object) -> bool:
    return isinstance(value, dict) and all(kind.holds(each) for each in value.values())


NUMBER = Kind("a number", _is_number)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TEXTS = Kind("an object of texts", lambda value: _is_object_of(TEXT, value))
NUMBERS = Kind("an object of numbers", lambda value: _is_object_of(NUMBER, value))
SECONDS = between(0, LATEST)
KEY = Kind(
    "a key of letters and digits", lambda value: isinstance(value, str) and bool(re.fullmatch(r"\w{1,64}", value))
)
EXPERIMENT = Kind("a name without ..", _is_experiment)
FILE_NAME = Kind("the name of a file in its own folder", _is_file_name)
TIME = Kind("a time such as 2026-01-02T03:04:05+00:00", _is_time)
STATUS = Kind("FINISHED, FAILED or KILLED", lambda value: value in ("FINISHED", "FAILED", "KILLED"))

DATA = {
    "name": LINE,
    "checksum": LINE,
    "image_shape": [count(1)],
    "classes": [TEXT],
    "mean": [NUMBER],
    "std": [NUMBER],
    "images": NUMBERS,
}
RUN = {
    "experiment": EXPERIMENT,
    "variant": LINE,
    "model": LINE,
    "seed": count(0),
    "data": DATA,
    "config": OBJECT,
    "command": TEXT,
    "git_commit": optional(LINE),
    "versions": TEXTS,
    "key": KEY,
    "started": SECONDS,
}
NEEDED_OF_A_ROW = {
    **dict.fromkeys(("variant", "target", "sha256", "identity", "machine", "data", "model"), LINE),
    "artifact": FILE_NAME,
    "measured_at": TIME,
    "precision": {"computes": [LINE], "stores": [LINE]},
    "runtime": {"name": LINE, "provider": optional(LINE), "stands_in_for": optional(LINE)},
}
EPOCH = {**{each.name: optional(NUMBER) for each in fields(Epoch)}, "epoch": count(0), "finished_at": SECONDS}
TRIAL = {
    "number": count(0),
    "params": OBJECT,
    "values": NUMBERS,
    "tags": TEXTS,
    "failed": TRUTH,
    "started": SECONDS,
    "ended": SECONDS,
}
CHOSEN = {
    "name": LINE,
    "row": NEEDED_OF_A_ROW,
    "rows": [NEEDED_OF_A_ROW],
    "objective": LINE,
    "budget": OBJECT,
    "command": TEXT,
    "git_commit": optional(LINE),
    "point": OBJECT,
}
REFUSED = {"variant": LINE, "target": LINE, "reason": TEXT, "failed": TRUTH}
EVENTS: Mapping[str, Mapping[str, Any]] = {
    "begun": {"run": Kind("null or an object", lambda value: value is None or isinstance(value, dict))},
    "epoch": {"stage": LINE, "epoch": EPOCH},
    "rows": {"rows": [NEEDED_OF_A_ROW]},
    "refused": {"refused": [REFUSED]},
    "trial": {"record": TRIAL},
    "register": {"chosen": CHOSEN},
    "finish": {"status": STATUS},
}


def read_journal(file: EventFile) -> list[dict[str, Any]]:
    """Return every event of a journal, the oldest first; none if the first was not written whole.

    Raises:
        TrackingError: A line is no event, or holds what no run has; the message names the file and the line.
    """
    events = file.events()
    for number, event in enumerate(events, start=1):
        try:
            _check(event, first=number == 1)
        except schema.InputError as error:
            raise TrackingError(
                f"{file.path} is damaged, or of another version: in its line {number}, {error}"
            ) from error
    return events


def fields_of(kind: type[T], record: Mapping[str, Any], **more: Any) -> T:
    """Build a dataclass from those keys of ``record`` that it has, and from ``more``."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in record.items() if key in names} | more)


def _check(event: Mapping[str, Any], *, first: bool) -> None:
    kind = event["event"]
    if kind not in EVENTS or (first and kind != "begun"):
        raise schema.InputError(
            f"event is {schema.shown(kind)}, and must be {'begun' if first else ' or '.join(EVENTS)}"
        )
    schema.check(event, {"time": SECONDS, **EVENTS[kind]})
    if kind == "begun" and event["run"] is not None:
        schema.check(event["run"], RUN, "run")
    elif kind == "finish" and "figures" in event:
        schema.check(event["figures"], NUMBERS, "figures")
    elif kind == "rows":
        for row in event["rows"]:
            check_figures(row)
    elif kind == "register":
        for row in (event["chosen"]["row"], *event["chosen"]["rows"]):
            check_figures(row)
