"""Every experiment file composes, instantiates, and has the identities that it had."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml

from src.command.composition import build_plan, composed
from src.command.exits import CONF
from src.contracts import DataSplits, ImageSet
from src.training.recipe import Compute
from tests.plans import plan

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
FROZEN = Path(__file__).parent / "frozen_identities.json"


def members(name: str) -> list[list[str]]:
    """The overrides of each member that an experiment's sweep names."""
    text = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    swept = text.get("hydra", {}).get("sweeper", {}).get("params", {})
    choices = [[f"{key}={value}" for value in str(values).split(",")] for key, values in swept.items()]
    return [list(combination) for combination in product(*choices)]


def identities(name: str, overrides: list[str]) -> dict[str, str]:
    """The identity of each stage, with machine, data, code and library versions held fixed."""
    resolved, chosen = composed([f"+experiment={name}", *overrides, "training.threads=1", "training.device=cpu"])
    made = replace(build_plan(resolved, chosen), compute=Compute("cpu", "float32", 1))
    images = ImageSet(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    splits = DataSplits("data", ("a", "b"), images, images, images, images, (0.0,), (1.0,), None, "0" * 64)
    with pytest.MonkeyPatch.context() as fixed:
        fixed.setattr("src.experiment.plan.sources", lambda targets, alone=(): {"code": "0", "versions": {}})
        fixed.setattr("src.experiment.plan.machine", lambda: "a board")
        stages = made.stages(splits)
        exports = [made.export(target, stages[-1].identity, splits) for target in made.targets]
    return {stage.name: stage.identity for stage in [*stages, *exports]}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_instantiates_and_keeps_its_identities(name: str) -> None:
    """A changed identity means that everybody's stages are made anew: change the file only when that is meant."""
    frozen = json.loads(FROZEN.read_text())
    for overrides in members(name):
        assert identities(name, overrides) == frozen[" ".join([name, *overrides])]


def test_no_experiment_sets_keys_of_a_method_other_than_its_own_chain() -> None:
    for name in EXPERIMENTS:
        text = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
        assert set(text.get("method", {})) <= {"name", "steps"}, name


def test_every_config_says_in_a_line_what_it_is() -> None:
    for path in CONF.glob("*/*.yaml"):
        comments = [line for line in path.read_text().splitlines()[:2] if line.startswith("# ")]
        assert [line for line in comments if not line.startswith("# @package")], path


def test_the_row_has_the_networks_own_name() -> None:
    assert plan("model=timm", "model.name=mobilenetv3_small_050").model_name == "mobilenetv3_small_050"
    assert plan("model=torchvision", "model.name=resnet18").model_name == "resnet18"
    assert plan("model=small_cnn").model_name == "small_cnn"


if __name__ == "__main__":  # python -m tests.experiment.test_plan writes the identities anew
    every = {" ".join([name, *o]): identities(name, o) for name in EXPERIMENTS for o in members(name)}
    FROZEN.write_text(json.dumps(every, indent=1, sort_keys=True) + "\n")
