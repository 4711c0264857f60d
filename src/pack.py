"""Pack a file of weights into as few bytes as possible: ``python -m src.pack model.safetensors --to model.dnnc``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.command import exits
from src.command.options import Parser


def main() -> int:
    parser = Parser(
        prog="python -m src.pack",
        description=__doc__,
        epilog="An .onnx file is packed with its graph; a .safetensors, .pt or .pth file as bare weights.",
    )
    parser.add_argument("file", type=Path, help="a .safetensors, .pt, .pth or .onnx file")
    parser.add_argument("--to", type=Path, help="the packed file (default: the file's name with .dnnc)")
    parser.add_argument(
        "--profile",
        choices=("fast", "board", "small", "huffman"),
        default="fast",
        help="fast; board: for the board's reader; small: smallest and slowest; huffman: Deep Compression's (fast)",
    )
    parser.add_argument(
        "--exact",
        choices=("bits", "outputs"),
        default="bits",
        help="what comes back: every bit; or, smaller, a network whose logits are equal to float rounding (bits)",
    )
    arguments = parser.parse_args()
    return exits.run_command(lambda: _pack(arguments))


def _pack(arguments: argparse.Namespace) -> int:
    from src.command.packing import pack_file

    to = arguments.to or arguments.file.with_suffix(".dnnc")
    print(pack_file(arguments.file, to, arguments.profile, arguments.exact))
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
