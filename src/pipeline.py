"""The stages of ``dvc.yaml``, a command each: ``python -m src.pipeline STAGE`` (and METHOD, for ``compress``).

DVC follows files, not Hydra's composition: ``compose`` writes one resolved file for each method, and all later stages
depend on that file. The folder ``pipeline/`` is DVC's; trained stages are kept in ``artifacts/`` and found again there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from src.command import exits
from src.command.options import Parser


def main() -> int:
    parser = Parser(
        prog="python -m src.pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    stages.add_parser("compose", help="write the resolved config of the baseline and of each method")
    stages.add_parser("data", help="load the data set and describe it")
    stages.add_parser("baseline", help="train, export and measure the baseline")
    stages.add_parser("compress", help="compress, export and measure").add_argument("method", metavar="METHOD")
    stages.add_parser("search", help="search the best model within the budget")
    stages.add_parser("table", help="gather all results into a table, metrics and plots")
    arguments = parser.parse_args()
    if arguments.stage == "compress":
        return exits.run_command(lambda: _compress(arguments.method))
    return exits.run_command(STAGES[arguments.stage])


def _compose() -> None:
    from src.command.dvc import compose

    compose()


def _describe_data() -> None:
    from src.command.dvc import describe_data

    describe_data()


def _baseline() -> int:
    from src.command.dvc import BASELINE

    return _compress(BASELINE)


def _compress(method: str) -> int:
    from src.command.dvc_runs import run

    return run(method)


def _search() -> int:
    from src.command.dvc_runs import search

    return search()


def _tabulate() -> None:
    from src.command.dvc_table import tabulate

    for line in tabulate():
        print(line)


STAGES: dict[str, Callable[[], int | None]] = {
    "compose": _compose,
    "data": _describe_data,
    "baseline": _baseline,
    "search": _search,
    "table": _tabulate,
}

if __name__ == "__main__":
    sys.exit(main())
