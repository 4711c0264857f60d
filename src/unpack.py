"""Unpack a packed file: ``python -m src.unpack model.dnnc --to model.safetensors``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.command import exits
from src.command.options import Parser


def main() -> int:
    parser = Parser(prog="python -m src.unpack", description=__doc__)
    parser.add_argument("file", type=Path, help="a .dnnc file")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", type=Path, help="a .safetensors, .pt, .pth or .onnx file")
    what.add_argument("--stat", action="store_true", help="print what each tensor takes, and how it is coded")
    arguments = parser.parse_args()
    return exits.run_command(lambda: _unpack(arguments))


def _unpack(arguments: argparse.Namespace) -> int:
    from src.command.packing import statistics, unpack_file

    print(statistics(arguments.file) if arguments.stat else unpack_file(arguments.file, arguments.to))
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
