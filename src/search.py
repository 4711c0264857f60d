"""Search the best model within a budget: ``python -m src.search +search=cifar_budget``."""

from __future__ import annotations

import sys

from src.command import exits, help

USAGE = """\
python -m src.search +search=NAME [key=value ...]    the best model within a budget, and the front of trade-offs

The same command continues a search that was interrupted. More trials: search.trials=80. Another budget or space needs
another name: search.name=mine.

budget.accuracy_drop=0.005  budget.size_bytes=50000  budget.latency_ms=0.1  search.objectives=[size_gzip_bytes]
space.prune.choose.sparsity.hardest=0.9  sampler@search.sampler=random  workers=2  hydra/launcher=ray
"""


def main() -> int:
    return exits.run_command(_run)


def _run() -> int:
    if help.wanted():
        print(help.help_text(USAGE, ("search", "space", "sampler")))
        return exits.DONE
    from src.command.search_job import run_search

    return run_search()


if __name__ == "__main__":
    sys.exit(main())
