"""Describe a data set before anything is trained: ``python -m src.describe ~/leaves``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.command import exits
from src.command.options import Parser

USAGE = """\
python -m src.describe ~/leaves                                a folder of images, as data=image_folder reads it
python -m src.describe ~/leaves data.height=64 data.crop=0.9    with other settings
python -m src.describe data=cifar10                            any other data set
"""


def main() -> int:
    parser = Parser(
        prog="python -m src.describe",
        description=__doc__,
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", help="a folder of images, or data=NAME of conf/data")
    parser.add_argument("settings", nargs="*", default=[], help="settings of the data, e.g. data.fit=letterbox")
    parser.add_argument("--sheet", type=Path, help="where the contact sheet goes (outputs/describe/NAME.png)")
    arguments = parser.parse_args()
    return exits.run_command(lambda: _describe(arguments))


def _describe(arguments: argparse.Namespace) -> int:
    from src.command.description import describe

    print("\n".join(describe(arguments.data, arguments.settings, arguments.sheet)))
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
