"""Put what a board measured beside the host's runs: ``python -m src.import_results device_results.json``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.command import exits
from src.command.options import Parser


def main() -> int:
    parser = Parser(prog="python -m src.import_results", description=__doc__)
    parser.add_argument("file", type=Path, help="what a bundle wrote on the board, e.g. device_results.json")
    parser.add_argument(
        "--artifacts",
        type=Path,
        default=Path("artifacts"),
        help="the folder in which src.bundle keeps the bundle's record (%(default)s)",
    )
    parser.add_argument("--uri", help="the tracking store of the host's runs, if it is not that of conf/tracking")
    arguments = parser.parse_args()
    return exits.run_command(lambda: _import(arguments))


def _import(arguments: argparse.Namespace) -> int:
    from src.command.device_results import import_results

    for line in import_results(arguments.file, arguments.artifacts, arguments.uri):
        print(line)
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
