"""Pack a survey's models for a board: ``python -m src.bundle outputs/cifar_survey/2026-… --to board.pyz``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.command import exits, trust
from src.command.options import Parser


def main() -> int:
    parser = Parser(
        prog="python -m src.bundle",
        description=__doc__,
        epilog="On the board: python3 board.pyz. Then here: python -m src.import_results device_results.json",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the output folder of a run or of a survey")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="the bundle to write, e.g. board.pyz")
    parser.add_argument(
        "--images", default="1000", help="test images of each data set, classes in proportion, or 'all' (%(default)s)"
    )
    parser.add_argument(
        "--artifacts",
        type=Path,
        default=Path("artifacts"),
        help="the folder that keeps the bundle's record for src.import_results (%(default)s)",
    )
    parser.add_argument("--trust", action="store_true", help=trust.HELP)
    arguments = parser.parse_args()
    return exits.run_command(lambda: _bundle(arguments))


def _bundle(arguments: argparse.Namespace) -> int:
    from src.command.bundling import bundle
    from src.contracts.formats import size

    made = bundle(arguments.runs, arguments.to, arguments.images, arguments.artifacts, trust=arguments.trust)
    images = ", ".join(f"{s.images:,} of {s.test_images:,} test images of {s.name}" for s in made.samples)
    print(f"{made.models} models, {images}: {made.path} ({size(made.size_bytes)}), bundle {made.id}")
    print(f"On the board: python3 {made.path.name}")
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
