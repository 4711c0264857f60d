"""Whether a search survives ``kill -9`` at random moments; at the end the same command runs to its end.

``python -m benchmarks.kills [--kills 10] [--trials 100] [--seed 0] [search-override ...]``
``python -m benchmarks.kills --ray 4 [--trials 64] [--json FILE] [search-override ...]``

Each time the command, one of its processes, or all of them are killed. With ``--ray`` the search runs on a local Ray
cluster, one of its workers is killed in the middle of a trial, and the command is left alone. Every trial must be
finished once, and logged in MLflow once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import psutil

from src.study.attributes import ATTEMPTS

NAME, MARK = "kills", "DNNC_KILLS"
EARLIEST, LATEST = 25.0, 60.0  # seconds from a start to a kill: imports alone take ten


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="number of kills (%(default)s)")
    parser.add_argument("--trials", type=int, default=100, help="number of trials (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and the victims (%(default)s)")
    parser.add_argument("--ray", type=int, metavar="WORKERS", help="kill one of so many workers of a local Ray cluster")
    parser.add_argument("--json", type=Path, help="write what was found with --ray to this file")
    parser.add_argument("overrides", nargs="*", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = given.overrides or ["+search=digits_budget", *([] if given.ray else ["workers=2"])]
        if given.ray:
            overrides += [
                f"workers={given.ray}",
                "hydra/launcher=ray",
                f"+hydra.launcher.ray.init.num_cpus={given.ray}",
            ]
        places = [
            f"hydra.run.dir={folder}/out",
            f"artifacts={folder}/artifacts",
            f"search.storage={store(folder, 's')}",
        ]
        settings = [f"search.trials={given.trials}", "search.finalists=1", f"search.name={NAME}"]
        tracked = f"tracking.uri={store(folder, 'mlflow')}"
        command = [sys.executable, "-m", "src.search", *overrides, *settings, *places, tracked]
        if given.ray:
            found = kill_one_worker(command, folder, given.trials)
            if given.json:
                given.json.write_text(json.dumps({"overrides": overrides, **found}, indent=1) + "\n")
        else:
            kill_often(command, folder, given.kills, random.Random(given.seed))
        report(folder, given.trials)


def kill_often(command: list[str], folder: str, kills: int, chance: random.Random) -> None:
    """Kill the search ``kills`` times, then let it run to its end."""
    for number in range(kills):
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


def kill_one_worker(command: list[str], folder: str, trials: int) -> dict[str, Any]:
    """Kill one of Ray's workers after a quarter of the trials; return what the search did then."""
    started = time.perf_counter()
    # Ray gives its workers the lowest priority: beside other work they would stand still.
    environment = {**os.environ, MARK: folder, "RAY_worker_niceness": "0"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while len(finished(folder)) < trials // 4:
        if process.poll() is not None:
            sys.exit(f"the search ended with {process.returncode} before a worker was killed")
        time.sleep(1)
    workers = [each for each in running(folder) if "ray::_run_job" in " ".join(each.cmdline())]
    before = len(finished(folder))
    victim = workers[0]
    victim.kill()
    print(f"{len(workers)} Ray workers; killed {victim.pid} after {before} trials", flush=True)
    code = process.wait()
    ended = finished(folder)
    resumed = [trial.number for trial in ended if trial.user_attrs.get(ATTEMPTS, 1) > 1]
    found = {
        "workers": len(workers),
        "finished_before_the_kill": before,
        "exit": code,
        "finished": len({trial.number for trial in ended}),
        "failed": sum(trial.state.name == "FAIL" for trial in ended),
        "resumed_trials": resumed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(found, flush=True)
    if code != 0:
        sys.exit(f"the search ended with {code}")
    return found


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
