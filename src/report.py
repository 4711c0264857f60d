"""Show runs, surveys and searches as one page: ``python -m src.report cifar_survey --to report.html``."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from src.command import exits
from src.command.options import Parser
from src.command.trust import HELP

USAGE = """\
python -m src.report                                       the last run, survey or search, as report.html in its folder
python -m src.report cifar_survey --to report.html         the last of an experiment
python -m src.report outputs/a/… outputs/b/… --to all.html several together, a section for each data set
python -m src.report cifar_survey --to report.md           the same as Markdown
python -m src.report cifar_survey --to pictures            a folder of PNG pictures
"""


def main() -> int:
    parser = Parser(
        prog="python -m src.report",
        description=__doc__,
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="*", default=[], help="folders of runs, surveys, searches; or experiments")
    parser.add_argument("--to", type=Path, help="report.html, report.md, or a folder for pictures")
    parser.add_argument("--trust", action="store_true", help=HELP)
    arguments = parser.parse_args()
    return exits.run_command(lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> int:
    from src.command.reporting import report

    command = shlex.join(["python", "-m", "src.report", *sys.argv[1:]])
    print("\n".join(report(arguments.results, arguments.to, command, trust=arguments.trust)))
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main())
