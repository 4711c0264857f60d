"""List the stages that are kept, and remove those that no run or search needs."""

from __future__ import annotations

import sys
from pathlib import Path

from src.command import exits
from src.command.options import Parser


def main() -> int:
    parser = Parser(prog="python -m src.artifacts", description=__doc__)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where they are kept (artifacts)")
    removal = parser.add_mutually_exclusive_group()
    removal.add_argument("--remove", action="store_true", help="remove those that no existing folder of a run names")
    removal.add_argument("--keep", metavar="SIZE", help="remove the oldest of those until SIZE is left: 20GB, 500MB")
    arguments = parser.parse_args()
    return exits.run_command(lambda: _run(arguments.artifacts, arguments.remove, arguments.keep))


def _run(root: Path, remove: bool, keep: str | None) -> int:
    from src.command.stored_stages import lines_of, shrink, size_of, stages_in

    keep_bytes = 0 if remove else size_of(keep) if keep is not None else None
    stages = stages_in(root)
    for line in lines_of(stages):
        print(line)
    if keep_bytes is not None:
        for line in shrink(root, stages, keep_bytes):
            print(line)
    elif any(not stage.runs for stage in stages):
        print("--remove removes them.")
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
