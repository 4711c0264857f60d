"""Start of the command: ``python -m src.run --help`` and ``--cfg job`` against a bare ``import hydra``.

``python -m benchmarks.startup [--rounds N]`` runs the three in turns and prints medians and ratios.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import hydra": ["-c", "import hydra"],
    "--help": ["-m", "src.run", "--help"],
    "--cfg job": ["-m", "src.run", "+experiment=cifar_prune", "--cfg", "job"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="number of counted rounds (%(default)s)")
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):  # round 0 warms the file cache and is not counted
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if number > 0:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:<14} {median:6.3f} s   {median / medians['import hydra']:.2f}x")


if __name__ == "__main__":
    main()
