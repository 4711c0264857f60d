"""Move an alias of the model registry to a better model: ``python -m src.promote mnist-mnist_cnn 3 smallest``."""

from __future__ import annotations

import argparse
import sys

from src import command
from src.command import BUDGET_MISSED, DONE

ALIASES = ("smallest", "fastest", "best_within_budget")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m src.promote",
        description="Move an alias of a registered model to a version that is better by the alias's rule; exit 4 where "
        "it is not.",
        epilog="smallest: a smaller file. fastest: a latency smaller by more than 2 %, on the same machine. "
        "best_within_budget: a better value of the same objective under the same budget. All: the same target, and "
        "the version keeps its own budget.",
    )
    parser.add_argument("model", help="as a search registered it, e.g. mnist-mnist_cnn")
    parser.add_argument("version")
    parser.add_argument("alias", choices=ALIASES)
    parser.add_argument("--uri", default="sqlite:///mlflow.db", help="of the tracking store (default: %(default)s)")
    arguments = parser.parse_args()
    return command.run_command(lambda: _promote(arguments))


def _promote(arguments: argparse.Namespace) -> int:
    from src.tracking.registry import promote

    stands, why = promote(arguments.uri, arguments.model, arguments.version, arguments.alias)
    print(f"{why}.")
    return DONE if stands else BUDGET_MISSED


if __name__ == "__main__":
    sys.exit(main())
