"""Listing the stages in the store, and removing those that nothing needs."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from src.contracts import InputError
from src.contracts.formats import size
from src.device import schema
from src.device.schema import LINE, Kind
from src.display.tables import aligned
from src.stages.store import RECORD, StageStore, StoredStage

MADE = {"baseline": "model", "step": "method", "export": "target"}  # what the spec of each kind of stage names
KIND = Kind(f"timing, {' or '.join(MADE)}", lambda value: isinstance(value, str) and value in ("timing", *MADE))
LIST = Kind("a list", lambda value: isinstance(value, list))
UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def size_of(text: str) -> float:
    """Bytes that a size such as ``20GB`` or ``1.5 MB`` stands for, in powers of 1000.

    Raises:
        InputError: ``text`` is no such size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?B)", text.strip().upper())
    if match is None:
        raise InputError(f"--keep must be a size such as 20GB or 500MB, and is {text!r}")
    return float(match.group(1)) * UNITS[match.group(2)]


def stages_in(root: Path) -> list[StoredStage]:
    """The stages in the folder ``root``, the one that was used last first.

    Raises:
        InputError: There is no folder ``root``.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {root}: nothing was made yet, or --artifacts should name another")
    return StageStore(root).stages()


def lines_of(stages: Sequence[StoredStage]) -> list[str]:
    """A line for each stage, one for each whose record is damaged, and one for all of them together."""
    cells, damaged = [], []
    for stage in stages:
        age = datetime.datetime.now() - datetime.datetime.fromtimestamp(stage.used)
        runs = f"{len(stage.runs)} run{'s' * (len(stage.runs) != 1)}" if stage.runs else "no run"
        try:
            kind = _kind_of(stage)
        except schema.InputError as error:
            kind = "damaged"
            damaged.append(f"{stage.identity}/{RECORD} is damaged: {error}")
        cells.append([stage.identity, kind, size(stage.size_bytes), _age_text(age), runs])
    unnamed = [stage for stage in stages if not stage.runs]
    unnamed_size = f", {size(_bytes_of(unnamed))}" if unnamed else ""
    total = f"{len(stages)} stages, {size(_bytes_of(stages))}; {len(unnamed)} that no run names{unnamed_size}"
    return [*aligned(cells, left=2), *damaged, total]


def shrink(root: Path, stages: Sequence[StoredStage], keep_bytes: float) -> Iterator[str]:
    """Remove stages that no run or search needs, those unused for longest first.

    Args:
        root: Folder of the stages.
        stages: All of them, as ``stages_in`` returned them.
        keep_bytes: Bytes that may stay; 0 removes every stage that nothing needs.

    Yields:
        Lines that say which stages stay because they are in use, and how much was freed.
    """
    store, left = StageStore(root), _bytes_of(stages)
    removed: list[StoredStage] = []
    for stage in sorted((stage for stage in stages if not stage.runs), key=lambda stage: stage.used):
        if keep_bytes and left <= keep_bytes:
            break
        if store.remove(stage):
            removed.append(stage)
            left -= stage.size_bytes
        else:
            yield f"{stage.identity} is in use by a command at work and stays."
    freed = f" {size(_bytes_of(removed))} are freed, {size(left)} are left." if removed else ""
    yield f"Removed {len(removed)}.{freed}"
    if keep_bytes and left > keep_bytes:
        yield (
            f"More than {size(keep_bytes)} are left: existing runs and searches use them. "
            "Remove folders of those first."
        )


def _bytes_of(stages: Sequence[StoredStage]) -> int:
    return sum(stage.size_bytes for stage in stages)


def _kind_of(stage: StoredStage) -> str:
    """A stage in a few words: what kind, and of what; a ``schema.InputError`` if its record says what no stage does."""
    if stage.record is None:
        return "unfinished"
    schema.check(stage.record, {"spec": {"kind": KIND}})
    spec = stage.record["spec"]
    if spec["kind"] == "timing":
        schema.check(spec, {"exports": LIST}, "spec")
        return f"timing of {len(spec['exports'])} files"
    made = MADE[spec["kind"]]
    schema.check(spec, {made: {"_target_": LINE}}, "spec")
    return f"{spec['kind']} {spec[made]['_target_'].rpartition('.')[2]}"


def _age_text(age: datetime.timedelta) -> str:
    """``5 min``, ``3 h``, ``12 days``."""
    minutes = age.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
