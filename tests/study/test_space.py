"""What a search may choose, and the command line that a choice becomes."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.command.composition import build_plan, composed
from src.models.build import build_model
from src.primitives.layers import weight_names
from src.study.space import Choice, EachLayer, Number, Space, Step, Whole, override_text
from tests.plans import TINY

LAYERS = ["conv.weight", "fc.weight"]
SPARSITY = Number(mildest=0.5, hardest=0.9, log=False)
CLUSTERS = Whole(mildest=64, hardest=4, log=True)
SPACES = sorted(path.stem for path in Path("conf/space").glob("*.yaml"))


def space(**steps: Step) -> Space:
    return Space(steps, LAYERS)


def prune(**settings: object) -> Step:
    return Step(method="prune_magnitude", optional=True, choose={"sparsity": SPARSITY, **settings})


def test_settings_of_a_step_that_is_left_out_do_not_count() -> None:
    made = space(prune=prune(), cluster=Step(method="cluster", optional=False, choose={"clusters": CLUSTERS}))
    point = made.choose(optuna.trial.FixedTrial({"prune": False, "prune.sparsity": 0.7, "cluster.clusters": 8}))
    assert point == {"prune": False, "cluster.clusters": 8}
    assert made.overrides(point, "t") == [
        "method=chain",
        "method.name=t",
        "+method@method.steps.cluster=cluster",
        "++method.steps.cluster.clusters=8",
    ]


def test_steps_come_in_the_order_of_the_space_and_layers_as_one_setting() -> None:
    each = EachLayer(of=CLUSTERS, curve="clusters")
    made = space(prune=prune(), cluster=Step(method="cluster", optional=True, choose={"clusters": each}))
    assert made.hardest_point() == {
        "prune": True,
        "cluster": True,
        "prune.sparsity": 0.9,
        "cluster.clusters:conv.weight": 4,
        "cluster.clusters:fc.weight": 4,
    }
    assert made.overrides(made.hardest_point(), "t")[2:] == [
        "+method@method.steps.prune=prune_magnitude",
        "++method.steps.prune.sparsity=0.9",
        "+method@method.steps.cluster=cluster",
        "++method.steps.cluster.clusters={conv.weight:4,fc.weight:4}",
    ]


def test_given_values_are_kept_within_their_range_and_the_others_are_in_the_middle() -> None:
    made = space(prune=prune(), cluster=Step(method="cluster", optional=True, choose={"clusters": CLUSTERS}))
    assert made.completed({"prune.sparsity": 0.99}) == {
        "prune": True,
        "cluster": True,
        "prune.sparsity": 0.9,
        "cluster.clusters": 16,
    }
    assert made.completed({"prune": False}) == {"prune": False, "cluster": True, "cluster.clusters": 16}
    with pytest.raises(ValueError, match=r"no dimension prune.sparsty; there are: cluster, cluster.clusters"):
        made.completed({"prune.sparsty": 0.9})


def test_values_a_step_apart_are_all_that_is_chosen_and_given() -> None:
    eighths = Number(mildest=0.25, hardest=0.75, log=False, step=0.125)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    chosen = {eighths.choose(study.ask(), "share") for _ in range(60)}
    assert chosen == {0.25, 0.375, 0.5, 0.625, 0.75}
    assert eighths.nearest(0.45) == 0.5
    assert eighths.nearest(0.0) == 0.25
    for step in (0.3, -0.125, True, "much", 0):
        with pytest.raises(ValueError, match="step must divide the range"):
            Number(mildest=0.25, hardest=0.75, log=False, step=step)


def test_a_point_from_a_sensitivity_analysis_compresses_each_layer_as_hard_as_the_drop_allows() -> None:
    ratios = EachLayer(of=Number(mildest=0.2, hardest=1.5, log=False), curve="sparsity")
    clusters = EachLayer(of=CLUSTERS, curve="clusters")
    made = space(
        prune=prune(distribution={"ratios": ratios}),
        cluster=Step(method="cluster", optional=True, choose={"clusters": clusters}),
    )
    record = {
        "accuracy": 0.99,
        "layers": {
            "conv.weight": {
                "parameters": 100,
                "sparsity": {"0.5": 0.985, "0.9": 0.8},
                "clusters": {"4": 0.2, "32": 0.98},
            },
            "fc.weight": {
                "parameters": 300,
                "sparsity": {"0.5": 0.99, "0.9": 0.985},
                "clusters": {"4": 0.99, "32": 0.99},
            },
        },
    }
    other = {"accuracy": 0.99, "layers": {"features.weight": record["layers"]["fc.weight"]}}
    with pytest.raises(ValueError, match="it is of another network: it has none of the layers conv.weight, fc.weight"):
        made.point_from_sensitivity(other, drop=0.01)
    bare = {"accuracy": 0.99, "layers": {"conv.weight": {"parameters": 100, "sparsity": {"0.5": 0.985}}}}
    with pytest.raises(ValueError, match="it has no clusters of layer conv.weight"):
        made.point_from_sensitivity(bare, drop=0.01)
    point = made.point_from_sensitivity(record, drop=0.01)
    assert point["prune.sparsity"] == pytest.approx((0.5 * 100 + 0.9 * 300) / 400)
    assert point["prune.distribution.ratios:conv.weight"] == pytest.approx(0.5 / 0.8)
    assert point["prune.distribution.ratios:fc.weight"] == pytest.approx(0.9 / 0.8)
    assert point["cluster.clusters:conv.weight"] == 32
    assert point["cluster.clusters:fc.weight"] == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: space(), "space is empty"),
        (lambda: space(q=Step(method="quantize_int8", optional=False)), "space is empty"),
        (lambda: space(prune=prune(ignored=["a"])), r"prune.ignored is \['a'\], which is no dimension"),
        (lambda: Choice(options=[]), "options is empty"),
        (lambda: Number(mildest=0, hardest=1, log=True), "mildest must be more than 0"),
        (lambda: Whole(mildest=1, hardest="x", log=False), "hardest must be a number"),  # type: ignore[arg-type]
        (lambda: EachLayer(of=CLUSTERS, curve="bit"), "curve must be"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_override_text_is_what_hydra_reads() -> None:
    values = [None, True, 0.1234567891, "word", [1, 2], {"a.b": 0.5}]
    assert [override_text(value) for value in values] == ["null", "true", "0.123457", "word", "[1,2]", "{a.b:0.5}"]


@pytest.mark.parametrize("name", SPACES)
def test_every_space_makes_chains_of_its_method(name: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(f"conf/space/{name}.yaml"))
    plan = build_plan(*composed([*TINY, "model=lenet5"]))
    layers = weight_names(build_model(plan.model.value, plan.data.value.load(), 0))
    made = Space({"it": instantiate(config, _convert_="all")}, layers)
    made_plan = build_plan(*composed([*TINY, "model=lenet5", *made.overrides(made.hardest_point(), "t")]))
    assert list(made_plan.steps) == ["it"]
    for key, value in made.hardest_point().items():
        if key == "it":
            continue
        setting, _, layer = key.removeprefix("it.").partition(":")
        at: object = made_plan.steps["it"].config
        for part in setting.split("."):
            at = at[part]  # type: ignore[index]
        assert (at[layer] if layer else at) == pytest.approx(value)  # type: ignore[index]
