"""Classify images with an exported file: ``python -m src.predict FILE IMAGE…``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.command import exits, trust
from src.command.options import Parser, check_files, count

USAGE = "Classes, size and normalization are read from the file; its name or ending says which runtime reads it."


def main() -> int:
    parser = Parser(prog="python -m src.predict", description=__doc__, epilog=USAGE)
    parser.add_argument("file", type=Path, help="an exported file, e.g. outputs/…/quantize_int8.onnxruntime.onnx")
    parser.add_argument("images", type=Path, nargs="+", metavar="image")
    parser.add_argument("--top", type=count, default=3, help="how many classes to name for each image (3)")
    parser.add_argument("--trust", action="store_true", help=trust.HELP)
    arguments = parser.parse_args()
    return exits.run_command(lambda: _predict(arguments))


def _predict(arguments: argparse.Namespace) -> int:
    check_files([arguments.file, *arguments.images])
    from src.command.prediction import predict

    predictions = predict(arguments.file, arguments.images, arguments.top, trust=arguments.trust)
    for prediction in predictions:
        classes = "   ".join(f"{name} {100 * probability:.1f} %" for name, probability in prediction.classes)
        print(f"{prediction.image.name}: {classes}" if len(predictions) > 1 else classes)
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
