"""Many workers on one study: jobs of one of Hydra's launchers, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOG = "workers.log"
POLL_SECONDS = 0.5
END_SECONDS = 10.0  # an interrupted worker has this long before it is killed
PARENT = "DNNC_PARENT"  # in its environment a process that this project starts finds the one that it ends with


def run_workers(
    overrides: Sequence[str], *, workers: int, launcher: str, threads: int, folder: Path, watch: Callable[[], None]
) -> bool:
    """Run ``python -m src.search -m`` with a job for each worker, and wait for them.

    If this process is interrupted or killed, the workers on this machine end with it; the next run resumes their
    trials.

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
    with (folder / LOG).open("a", encoding="utf-8") as out:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with started(["-m", "src.search", "-m", *jobs], environment, out) as process:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                watch()
    return process.returncode == 0


@contextmanager
def started(
    arguments: Sequence[str], environment: Mapping[str, str], out: IO[str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python`` with ``arguments`` in a session of its own, which ends with the block, and with this process.

    Args:
        arguments: The arguments; a command of ours, whose ``src.command.exits`` watches for the end of this process.
        environment: The environment.
        out: File that gets what it prints; None for the terminal.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=out,
        stderr=out,
        env={**environment, PARENT: str(os.getpid())},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End all processes of the session that ``process`` leads, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
