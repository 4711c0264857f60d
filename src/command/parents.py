"""A command that another process started ends with it: nobody waits for it any more."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import cache

from src.study.workers import END_SECONDS, PARENT, POLL_SECONDS

SHELLS = ("sh", "dash", "bash", "zsh", "fish", "ksh")


def end_with_starter() -> None:
    """If DVC or a command of this project (``src.study.workers.started``) started this process, end with it."""
    starter = os.environ.pop(PARENT, None)
    if starter is not None:
        _watch((int(starter),))
    elif "DVC_STAGE" in os.environ:
        end_with_parent()


def end_with_parent() -> None:
    """End with the parent of this process; if that is a shell (DVC's ``sh -c …``), with the shell's parent, too."""
    _watch(_ancestors())


@cache
def _watch(ancestors: tuple[int, ...]) -> None:
    threading.Thread(target=_end_without, args=[ancestors], daemon=True).start()


def _end_without(ancestors: tuple[int, ...]) -> None:
    """Interrupt this process as soon as one of ``ancestors`` is gone; kill it if it does not end."""
    while _ancestors() == ancestors:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os._exit(1)


def _ancestors() -> tuple[int, ...]:
    import psutil

    parent = os.getppid()
    try:
        process = psutil.Process(parent)
        return (parent, process.ppid()) if process.name() in SHELLS else (parent,)
    except psutil.Error:  # outside of a container, say
        return (parent,)
