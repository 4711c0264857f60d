"""What the store holds, line by line, and how it is made smaller."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

from src.contracts import InputError
from src.contracts.formats import size
from src.stages.store import StageStore, StoredStage

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


def show(root: Path) -> list[StoredStage]:
    """Print a line for each stage, the one that was used last first, and one for all; return the stages.

    Raises:
        InputError: There is no folder ``root``.
    """
    if not root.is_dir():
        raise InputError(f"There is no folder {root}: nothing was made yet, or --artifacts should name another")
    stages = StageStore(root).stages()
    for stage in stages:
        age = datetime.datetime.now() - datetime.datetime.fromtimestamp(stage.used)
        named = f"{len(stage.runs)} run{'s' * (len(stage.runs) != 1)}" if stage.runs else "no run"
        print(f"{stage.identity}  {_kind_of(stage):<34}  {size(stage.size_bytes):>9}  {_age_text(age):>10}  {named}")
    unnamed = [stage for stage in stages if not stage.runs]
    beside = f", {size(_bytes_of(unnamed))}" if unnamed else ""
    print(f"{len(stages)} stages, {size(_bytes_of(stages))}; {len(unnamed)} that no run names{beside}")
    return stages


def shrink(root: Path, stages: Sequence[StoredStage], most: float) -> None:
    """Remove stages that no run or search needs, the least lately used first, and say what that came to.

    Args:
        root: Folder of the stages.
        stages: All of them, as ``show`` returned them.
        most: Bytes that may stay; 0 removes every stage that nothing needs.
    """
    store, left = StageStore(root), _bytes_of(stages)
    removed: list[StoredStage] = []
    for stage in sorted((stage for stage in stages if not stage.runs), key=lambda stage: stage.used):
        if most and left <= most:
            break
        if store.remove(stage):
            removed.append(stage)
            left -= stage.size_bytes
        else:
            print(f"{stage.identity} is in use by a command at work and stays.")
    freed = f" {size(_bytes_of(removed))} are freed, {size(left)} are left." if removed else ""
    print(f"Removed {len(removed)}.{freed}")
    if most and left > most:
        print(f"More than {size(most)} are left: existing runs and searches use them. Remove folders of those first.")


def _bytes_of(stages: Sequence[StoredStage]) -> int:
    return sum(stage.size_bytes for stage in stages)


def _kind_of(stage: StoredStage) -> str:
    """A stage in a few words: what kind, and of what."""
    if stage.record is None:
        return "unfinished"
    spec = stage.record["spec"]
    if spec["kind"] == "timing":
        return f"timing of {len(spec['exports'])} files"
    made = {"baseline": "model", "step": "method", "export": "target"}[spec["kind"]]
    return f"{spec['kind']} {spec[made]['_target_'].rpartition('.')[2]}"


def _age_text(age: datetime.timedelta) -> str:
    """``5 min``, ``3 h``, ``12 days``."""
    minutes = age.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
