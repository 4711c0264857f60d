"""Measure exported files on this machine: ``python -m src.benchmark FILE…``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from src.command import exits, trust
from src.command.options import Parser, check_files, count

USAGE = """\
All files are timed in turns, each in a process of its own; ratios are to the first file, with 95 % confidence
intervals. Memory is that of the process, Python and the runtime included. Energy is read from the machine's own counter
if it has one, else estimated from counted operations and bytes (45 nm, Horowitz 2014).
"""


def main() -> int:
    parser = Parser(prog="python -m src.benchmark", description=__doc__, epilog=USAGE)
    parser.add_argument("files", type=Path, nargs="+", metavar="file", help="outputs/…/quantize_int8.onnxruntime.onnx")
    parser.add_argument("--threads", type=count, default=1, help="threads of each file (1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of counted calls for each file (3)")
    parser.add_argument("--rounds", type=count, default=20, help="turns of each file (20)")
    parser.add_argument("--largest-batch", type=count, default=128, help="largest batch tried for throughput (128)")
    parser.add_argument("--operators", type=count, metavar="N", help="also show the N operators that take longest")
    parser.add_argument("--trust", action="store_true", help=trust.HELP)
    arguments = parser.parse_args()
    return exits.run_command(lambda: _benchmark(arguments))


def _benchmark(arguments: argparse.Namespace) -> int:
    check_files(arguments.files)
    from src.command.benchmarking import benchmark, clock_of

    clock = clock_of(arguments.threads, arguments.seconds, arguments.rounds, arguments.largest_batch)
    for line in benchmark(arguments.files, clock, arguments.operators, trust=arguments.trust):
        print(line)
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
