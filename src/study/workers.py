"""Many workers on one study: jobs of one of Hydra's launchers, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LOG = "workers.log"
POLL_SECONDS = 0.5
END_SECONDS = 10.0  # an interrupted worker has this long before it is killed


def run_workers(
    overrides: Sequence[str], *, workers: int, launcher: str, threads: int, folder: Path, watch: Callable[[], None]
) -> bool:
    """Run ``python -m src.search -m`` with a job for each worker, and wait for them.

    If this process is interrupted, the workers on this machine are ended with it; the next run resumes their trials.

    Args:
        overrides: The overrides of the search.
        workers: Number of jobs at once.
        launcher: Name of Hydra's launcher; ``joblib`` is taken for ``basic``, which runs one job at a time.
        threads: Number of threads of each worker.
        folder: Folder of the search; its ``workers.log`` gets what the workers print.
        watch: Called twice a second.

    Returns:
        Whether all workers ended without an error.
    """
    launch = [f"hydra/launcher={launcher if launcher != 'basic' else 'joblib'}"]
    launch += [f"hydra.launcher.n_jobs={workers}"] if launcher in ("basic", "joblib") else []
    own = [given for given in overrides if not given.startswith(("hydra/launcher=", "training.threads="))]
    jobs = [*own, f"training.threads={threads}", f"worker={','.join(map(str, range(workers)))}", *launch]
    jobs += [f"hydra.sweep.dir={folder / 'workers'}"]
    with (folder / LOG).open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "src.search", "-m", *jobs],
            stdout=out,
            stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                watch()
        finally:
            _end(process)
    return process.returncode == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End all processes of the session that ``process`` leads, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
