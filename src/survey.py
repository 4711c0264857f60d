"""What a survey (a multirun) needs beyond its members: how many there are, and where it lies."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from src.training.recipe import WORKERS, usable_cores

# Handed on by the environment, so that members in other processes have them too.
PARENT = ".mlflow_parent"  # in a survey's folder: its run in the tracking store, and that store's address
MEMBERS, STARTED = "DNNC_SURVEY_MEMBERS", "DNNC_SURVEY_STARTED"


class Survey(Callback):
    """Counts a multirun's members before they start and remembers its folder for the table at the end."""

    folder: Path | None = None

    @classmethod
    def reset(cls) -> None:
        """Forget an earlier survey of this process."""
        cls.folder = None
        os.environ.pop(MEMBERS, None)
        os.environ.pop(STARTED, None)
        os.environ.pop(WORKERS, None)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        Survey.folder = Path(config.hydra.sweep.dir).absolute()
        (Survey.folder / PARENT).unlink(missing_ok=True)  # of an earlier survey in the same folder
        swept = dict(config.hydra.sweeper.get("params") or {})
        texts = [f"{key}={value}" for key, value in swept.items()]
        overrides = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(texts)}
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        overrides |= {o.key_or_group: o for o in given}
        counts = [len(list(o.sweep_string_iterator())) for o in overrides.values() if o.is_sweep_override()]
        os.environ[MEMBERS] = str(math.prod(counts))
        os.environ[STARTED] = str(time.time())
        os.environ[WORKERS] = str(_at_once(config.hydra.launcher, usable_cores()))


def _at_once(launcher: Any, cores: int) -> int:
    """How many members a launcher runs at once on this machine: joblib's jobs, as many as Ray has cores for, …"""
    jobs = launcher.get("n_jobs")
    if jobs is not None:
        return cores if jobs < 1 else int(jobs)
    if launcher.get("ray") is not None:
        each = launcher.ray.remote.get("num_cpus") or 1
        return max(1, cores // int(each))
    if "submitit" in launcher.get(
        "_target_", ""
    ):  # as many at once as there are; a job has so many of its node's cores
        return max(1, cores // int(launcher.get("cpus_per_task") or 1))
    return 1
