"""Send to the tracking store what it did not get: ``python -m src.sync``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.command import exits
from src.command.options import Parser


def main() -> int:
    parser = Parser(
        prog="python -m src.sync",
        description="Send to the tracking store what it did not get when runs were made: the command was killed, or "
        "the store did not answer. Nothing is logged twice. Exit 3 if a store still does not take it.",
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="folders of runs, surveys or searches (default: every folder with unsent results)",
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where stages are kept (artifacts)")
    parser.add_argument(
        "--to",
        metavar="NAME",
        help="send what did not begin in this project, too, to the store of conf/tracking/NAME.yaml: mlflow, jsonl",
    )
    parser.add_argument("--uri", help="the address of that store (default: that of the config)")
    parser.add_argument(
        "--ended", action="store_true", help="send what was begun on other machines, too: it is not at work any more"
    )
    arguments = parser.parse_args()
    return exits.run_command(lambda: _sync(arguments))


def _sync(arguments: argparse.Namespace) -> int:
    from src.command.syncing import sync

    given = {"to": arguments.to, "uri": arguments.uri, "ended": arguments.ended}
    code, lines = sync(arguments.folders, arguments.artifacts, **given)
    for line in lines:
        print(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
