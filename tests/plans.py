"""Plans composed from conf/, as the command composes them, on tiny drawn images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from src.command import CONF
from src.composition import build_plan, register_resolvers
from src.console import Report
from src.experiment import Experiment
from src.plan import Plan
from src.stages.store import StageStore
from src.tracking.off import Off

TINY = [
    "data=shapes",
    "data.train_images=300",
    "data.test_images=60",
    "data.side=16",
    "data.calibration_images=40",
    "training.epochs=1",
    "training.batch_size=50",
    "training.precision=float32",
    "training.device=cpu",
    "training.threads=1",
]


def composed(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The resolved config and Hydra's choices."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    choices = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    OmegaConf.set_readonly(config, False)
    del config["hydra"]
    return OmegaConf.to_container(config, resolve=True), choices  # type: ignore[return-value]


def plan(*overrides: str) -> Plan:
    """The plan of tiny data with ``overrides`` on top."""
    return build_plan(*composed([*TINY, *overrides]))


def experiment(made: Plan, folder: Path) -> Experiment:
    """An experiment whose stages and files lie in ``folder``; call ``run`` for its rows."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    store = StageStore(folder / "artifacts")
    return Experiment(made, store=store, tracker=Off(), report=Report(io.StringIO(), ""), folder=folder / "run")
