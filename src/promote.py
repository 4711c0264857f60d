"""Move an alias of the model registry to a better model: ``python -m src.promote mnist-mnist_cnn 3 smallest``."""

from __future__ import annotations

import argparse
import sys

from src.command import exits
from src.command.options import Parser
from src.tracking.aliases import RULES


def main() -> int:
    parser = Parser(
        prog="python -m src.promote",
        description="Move an alias of a registered model to a version that is better by the alias's rule; exit 4 if "
        "it is not.",
        epilog="smallest: a smaller file. fastest: a latency smaller by more than 2 %, on the same machine. "
        "best_within_budget: a better value of the same objective under the same budget. All: the same target, and "
        "the version keeps its own budget.",
    )
    parser.add_argument("model", help="name that a search registered, e.g. mnist-mnist_cnn")
    parser.add_argument("version")
    parser.add_argument("alias", choices=tuple(RULES))
    parser.add_argument("--tracking", default="mlflow", help="file of conf/tracking (default: %(default)s)")
    parser.add_argument("--uri", help="address of the tracking store (default: the file's)")
    arguments = parser.parse_args()
    return exits.run_command(lambda: _promote(arguments))


def _promote(arguments: argparse.Namespace) -> int:
    from src.command.composition import tracker_of

    tracker = tracker_of(arguments.tracking, arguments.uri)
    stands, why = tracker.promote(arguments.model, arguments.version, arguments.alias)
    print(f"{why}.")
    return exits.DONE if stands else exits.BUDGET_MISSED


if __name__ == "__main__":
    sys.exit(main())
