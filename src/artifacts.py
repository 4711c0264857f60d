"""List the stages that are kept, and remove those that no run names: ``python -m src.artifacts [--remove]``."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from src.command import exits

if TYPE_CHECKING:
    from src.stages.store import StoredStage


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.artifacts", description=__doc__)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where they are kept (artifacts)")
    parser.add_argument("--remove", action="store_true", help="remove those that no existing run's folder names")
    arguments = parser.parse_args()
    return exits.run_command(lambda: list_or_remove(arguments.artifacts, arguments.remove))


def list_or_remove(root: Path, remove: bool) -> int:
    """Print a line a stage; with ``remove``, remove what no run names and say how much that freed."""
    from src.contracts import InputError
    from src.contracts.formats import size
    from src.stages.store import StageStore

    if not root.is_dir():
        raise InputError(f"There is no folder {root}: nothing was made yet, or --artifacts should name another")
    store = StageStore(root)
    stages = store.stages()
    for stage in stages:
        age = datetime.datetime.now() - datetime.datetime.fromtimestamp(stage.changed)
        named = f"{len(stage.runs)} run{'s' * (len(stage.runs) != 1)}" if stage.runs else "no run"
        print(f"{stage.identity}  {kind_of(stage):<34}  {size(stage.size_bytes):>9}  {age_text(age):>10}  {named}")
    unnamed = [stage for stage in stages if not stage.runs]
    print(
        f"{len(stages)} stages, {size(sum(stage.size_bytes for stage in stages))}; {len(unnamed)} that no run names",
        end="",
    )
    print(f", {size(sum(stage.size_bytes for stage in unnamed))}" if unnamed else "")
    if remove:
        for stage in unnamed:
            store.remove(stage)
        print(f"Removed {len(unnamed)}.")
    elif unnamed:
        print("--remove removes them.")
    return exits.DONE


def kind_of(stage: StoredStage) -> str:
    """A stage in a few words: what kind, and of what."""
    if stage.record is None:
        return "unfinished"
    spec = stage.record["spec"]
    if spec["kind"] == "timing":
        return f"timing of {len(spec['exports'])} files"
    made = {"baseline": "model", "step": "method", "export": "target"}[spec["kind"]]
    return f"{spec['kind']} {spec[made]['_target_'].rpartition('.')[2]}"


def age_text(age: datetime.timedelta) -> str:
    """``5 min``, ``3 h``, ``12 days``."""
    minutes = age.total_seconds() / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


if __name__ == "__main__":
    sys.exit(main())
