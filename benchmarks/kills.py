"""Whether a search survives ``kill -9`` at random moments; at the end the same command runs to its end.

``python -m benchmarks.kills [--kills 10] [--trials 100] [--seed 0] [search-override ...]``

Each time the command, one of its processes, or all of them are killed. Every trial must be finished once, and logged in
MLflow once.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import optuna
import psutil

NAME, MARK = "kills", "DNNC_KILLS"
EARLIEST, LATEST = 25.0, 60.0  # seconds from a start to a kill: imports alone take ten


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="number of kills (%(default)s)")
    parser.add_argument("--trials", type=int, default=100, help="number of trials (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and the victims (%(default)s)")
    parser.add_argument("overrides", nargs="*", default=["+search=digits_budget", "workers=2"])
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        places = [
            f"hydra.run.dir={folder}/out",
            f"artifacts={folder}/artifacts",
            f"search.storage={store(folder, 's')}",
        ]
        settings = [f"search.trials={given.trials}", "search.finalists=1", f"search.name={NAME}"]
        tracked = f"tracking.uri={store(folder, 'mlflow')}"
        command = [sys.executable, "-m", "src.search", *given.overrides, *settings, *places, tracked]
        for number in range(given.kills):
            process = subprocess.Popen(command, env={**os.environ, MARK: folder}, stdout=subprocess.DEVNULL)
            time.sleep(chance.uniform(EARLIEST, LATEST))
            if process.poll() is not None:
                print(f"it ended before kill {number + 1}: more --trials")
                break
            how = chance.choice(["the command", "one process", "all"])
            found = running(folder)
            if how == "the command":
                found = [psutil.Process(process.pid)]
            elif how == "one process":
                found = [chance.choice(found)]
            kill(found)
            time.sleep(5)
            kill(running(folder))
            process.wait()
            print(f"kill {number + 1}: {how}; {len(finished(folder))} trials finished", flush=True)
        subprocess.run(command, env={**os.environ, MARK: folder}, check=True, stdout=subprocess.DEVNULL)
        report(folder, given.trials)


def store(folder: str, name: str) -> str:
    """Address of an SQLite database in ``folder``."""
    return f"sqlite:///{folder}/{name}.db"


def running(folder: str) -> list[psutil.Process]:
    """The processes of the search, found by the environment variable that they inherit."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == folder:
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill(processes: list[psutil.Process]) -> None:
    """Kill processes; some may be dead already."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def finished(folder: str) -> list[optuna.trial.FrozenTrial]:
    """The finished trials of the study."""
    if not Path(folder, "s.db").exists():
        return []
    try:
        study = optuna.load_study(study_name=NAME, storage=store(folder, "s"))
    except KeyError:  # the search has not created it yet
        return []
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def report(folder: str, trials: int) -> None:
    """Print whether every trial was finished and logged once; exit with 1 if not."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store(folder, "mlflow"))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    logged = [
        run.data.tags for run in client.search_runs(experiments, max_results=10 * trials) if "trial" in run.data.tags
    ]
    parents = {tags["mlflow.parentRunId"] for tags in logged}
    states = Counter(trial.state.name for trial in finished(folder))
    all_finished = [trial.number for trial in finished(folder)] == list(range(trials))
    once = sorted(int(tags["trial"]) for tags in logged) == list(range(trials))
    print(f"{dict(states)}; every trial finished once: {all_finished}", end="; ")
    print(f"in MLflow once, under {len(parents)} parent: {once}")
    if not (all_finished and once and len(parents) == 1):
        sys.exit(1)


if __name__ == "__main__":
    main()
