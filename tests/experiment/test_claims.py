"""A step's result is what the step says, counted on what the network's operators take; else it stops, with the name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from src.contracts import Claim, Compressed, DataSplits, InputError, Method
from src.experiment.claims import checked
from src.methods.cluster import Cluster
from src.methods.quantize_uniform import QuantizeUniform
from src.primitives.codebooks import Optimal
from src.primitives.quantizers import Symmetric
from tests.methods.examples import context, prune
from tests.plans import experiment, plan
from tests.primitives.foreign import IMAGE, Lists, Standardized, Timmish
from tests.primitives.networks import Joined


def cluster(**changed: Any) -> Cluster:
    settings = {"clusters": 4, "bits": None, "start": Optimal(bins=64), "iterations": 10, "ignored": []}
    return Cluster(**{**settings, "fine_tune": None, **changed})


def uniform(**changed: Any) -> QuantizeUniform:
    grid = Symmetric(per_channel=True, candidates=4)
    settings = {"bits": 3, "activation_bits": None, "grid": grid, "ignored": [], "fine_tune": None}
    return QuantizeUniform(**{**settings, **changed})


METHODS: dict[str, Callable[..., Method]] = {"prune": prune, "cluster": cluster, "uniform": uniform}


def compressed(model: nn.Module, method: Method, splits: DataSplits) -> Compressed:
    torch.manual_seed(0)
    return Compressed.of(method.compress(model.eval(), context(splits)))


@pytest.mark.parametrize("name", ["prune", "cluster"])
def test_a_weight_that_is_computed_from_its_parameter_is_refused_by_name(name: str, splits: DataSplits) -> None:
    made = compressed(Timmish(Standardized), METHODS[name](), splits)
    with pytest.raises(InputError, match=rf"^{name}: middle\.weight has .* in place of .*: Standardized computes"):
        checked(name, made, IMAGE)
    left = compressed(Timmish(Standardized), METHODS[name](ignored=["middle.*"]), splits)
    (line,) = checked(name, left, IMAGE)
    assert re.fullmatch(rf"{name} reaches 1,520 of 4,976 weights; not middle.weight", line)


@pytest.mark.parametrize("name", METHODS)
def test_layers_that_pad_or_scale_by_themselves_are_reached_through_their_parameters(
    name: str, splits: DataSplits
) -> None:
    assert checked(name, compressed(Timmish(), METHODS[name](), splits), IMAGE) == []


def test_a_weight_norm_that_was_not_baked_is_pruned_or_refused(splits: DataSplits) -> None:
    model = Timmish()
    parametrizations.weight_norm(model.fc)
    made = compressed(model, prune(), splits)
    name = "fc.parametrizations.weight.original1"
    assert checked("prune", made, IMAGE) == []
    assert int((made.model.fc.weight == 0).sum()) == round(320 * made.claims[name].sparsity) > 32
    with pytest.raises(InputError, match=rf"cluster: {name} has .* distinct values in place of 4"):
        checked("cluster", compressed(model, cluster(ignored=["*original0"]), splits), IMAGE)


def test_layers_in_lists_and_parameters_of_functions_are_reached(splits: DataSplits) -> None:
    for name in ("prune", "cluster"):
        made = compressed(Lists(), METHODS[name](), splits)
        assert set(made.claims) == {"kernel", "fc.weight", *(f"streams.{at}.weight" for at in range(3))}
        assert checked(name, made, IMAGE) == []


def test_what_a_method_does_not_reach_is_said(splits: DataSplits) -> None:
    (line,) = checked("prune", compressed(Joined(), prune(), splits), IMAGE)
    assert line == "prune reaches 19,721 of 19,785 weights; not scale"
    alone = Compressed(nn.Linear(2, 2), left_alone={"a": "why", "b": "why", "c": "because"})
    assert checked("step", alone, torch.ones(1, 2)) == ["step leaves alone a, b: why", "step leaves alone c: because"]


def test_zeros_and_values_are_counted_by_hand() -> None:
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[0.0, 0.0, 1.0, 2.0], [0.0, 3.0, 4.0, 5.0]])
    for claim in (Claim(sparsity=3 / 8), Claim(values=6), Claim(channel_values=4)):
        assert checked("step", Compressed(layer, claims={"weight": claim}), torch.ones(1, 4)) == []
    wrong = {
        "37.5 % zeros in place of 50.0 %": Claim(sparsity=0.5),
        "6 distinct values in place of 5": Claim(values=5),
        "4 distinct values in a channel in place of 3": Claim(channel_values=3),
    }
    for says, claim in wrong.items():
        with pytest.raises(InputError, match=f"step: weight has {says}"):
            checked("step", Compressed(layer, claims={"weight": claim}), torch.ones(1, 4))


def test_numbers_that_are_not_finite_are_told_from_values_too_many() -> None:
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data[0] = torch.nan
    with pytest.raises(InputError, match="step: weight holds numbers that are not finite"):
        checked("step", Compressed(layer, claims={"weight": Claim(values=3)}), torch.ones(1, 4))


def test_an_experiment_stops_before_it_trains_anything(tmp_path: Any) -> None:
    made = experiment(
        plan("method=prune_magnitude", "model=custom", "model._target_=tests.experiment.test_claims.Own"), tmp_path
    )
    with pytest.raises(InputError, match=r"middle\.weight has .* zeros in place of"):
        made.run()
    assert not list(tmp_path.glob("artifacts/*/stage.json"))


class Own(Timmish):
    def __init__(self, num_classes: int) -> None:
        super().__init__(Standardized)
