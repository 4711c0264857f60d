"""Send to the tracking store what it did not get: ``python -m src.sync``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.command import exits


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m src.sync",
        description="Send to the tracking store what it did not get when runs were made: the command was killed, or "
        "the store did not answer. Nothing is logged twice. Exit 3 if a store still does not take it.",
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="of runs (default: all that are known)")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where stages are kept (artifacts)")
    arguments = parser.parse_args()
    return exits.run_command(lambda: _sync(arguments))


def _sync(arguments: argparse.Namespace) -> int:
    from src.command.syncing import sync

    return sync(arguments.folders, arguments.artifacts)


if __name__ == "__main__":
    sys.exit(main())
