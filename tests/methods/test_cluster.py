"""Weight sharing: at most k values, zeros apart, centroids trained by the sum over their members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.contracts import DataSplits, InputError, NoEffectError
from src.methods.cluster import Cluster, SumOfMembers
from src.primitives.codebooks import Optimal
from src.primitives.keeping import Keep
from tests.methods.examples import Net, context, recipe
from tests.plans import experiment, plan


def cluster(**changed: Any) -> Cluster:
    settings: dict[str, Any] = {
        "clusters": 8,
        "bits": None,
        "start": Optimal(bins=64),
        "iterations": 50,
        "ignored": [],
        "fine_tune": None,
    }
    return Cluster(**{**settings, **changed})


def test_a_layer_has_as_many_values_as_set_and_batch_norm_is_folded(splits: DataSplits) -> None:
    shared = cluster().compress(Net().eval(), context(splits)).model
    assert isinstance(shared.bn, nn.Identity)
    assert shared.conv.weight.unique().numel() == shared.fc.weight.unique().numel() == 8  # type: ignore[union-attr, operator]


def test_zero_is_one_of_the_values_if_there_are_zeros(splits: DataSplits) -> None:
    model = Net().eval()
    with torch.no_grad():
        model.fc.weight[:, ::2] = 0
    shared = cluster(clusters={"conv*": 4, "*": 3}).compress(model, context(splits)).model
    fc = shared.get_parameter("fc.weight")
    assert bool((fc[:, ::2] == 0).all())
    assert bool((fc[:, 1::2] != 0).all())
    assert fc.unique().numel() == 3
    assert shared.get_parameter("conv.weight").unique().numel() == 4


def test_bits_are_a_power_of_two(splits: DataSplits) -> None:
    shared = cluster(clusters=None, bits={"conv*": 2, "*": 3}).compress(Net().eval(), context(splits)).model
    assert [shared.get_parameter(f"{name}.weight").unique().numel() for name in ("conv", "fc")] == [4, 8]


@pytest.mark.parametrize("clusters", [16, 300])
def test_however_many_values_there_are_they_stay_while_centroids_are_trained(splits: DataSplits, clusters: int) -> None:
    def fine_tune(model: nn.Module, recipe: Any, callbacks: Any = ()) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        every = [*callbacks, Keep(model)]
        for images, labels in context(splits).calibration:
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            for callback in every:
                callback.after_backward(model)
            optimizer.step()

    model = Net().eval()
    model.conv = nn.Conv2d(3, 8, 1, bias=False)  # 24 weights
    shared = cluster(clusters=clusters, fine_tune=recipe()).compress(model, context(splits, fine_tune)).model
    assert 2 < shared.get_parameter("fc.weight").unique().numel() <= clusters  # two may meet
    assert shared.get_parameter("conv.weight").unique().numel() <= min(clusters, 24)


def test_ignored_layers_are_left_alone(splits: DataSplits) -> None:
    model = Net().eval()
    before = model.fc.weight.detach().clone()
    shared = cluster(ignored=["fc.*"]).compress(model, context(splits)).model
    assert torch.equal(shared.get_parameter("fc.weight"), before)


def test_the_gradient_of_a_centroid_is_the_sum_over_its_members() -> None:
    layer = nn.Linear(6, 1)
    layer.weight.data = torch.tensor([[2.0, 2.0, 0.0, 2.0, -1.0, -1.0]])
    holder = nn.Module()
    holder.add_module("fc", layer)
    callback = SumOfMembers(holder, ["fc.weight"])
    layer.weight.grad = torch.tensor([[1.0, 2.0, 9.0, 6.0, 1.0, 0.0]])
    callback.after_backward(holder)
    assert layer.weight.grad.tolist() == [[9.0, 9.0, 0.0, 9.0, 1.0, 1.0]]


def test_sharing_twice_changes_nothing_and_says_so(splits: DataSplits) -> None:
    shared = cluster().compress(Net().eval(), context(splits)).model
    with pytest.raises(NoEffectError, match="no more values"):
        cluster().compress(shared, context(splits))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"clusters": 0}, "clusters must be a whole number from 1 to 16384, and is 0"),
        ({"clusters": 8, "bits": 3}, "clusters or bits must be given"),
        ({"clusters": None}, "clusters or bits must be given"),
        ({"clusters": {"fc*": 0}}, "clusters must be"),
        ({"iterations": 0}, "iterations must be"),
        *[
            ({"clusters": None, "bits": bits}, "bits must be a whole number from 1 to 14, and is")
            for bits in (17, -1, 2.5, {"fc*": 15})
        ],
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cluster(**settings)


def test_names_that_match_nothing_and_zeros_without_a_place_are_refused(splits: DataSplits) -> None:
    with pytest.raises(ValueError, match=r"no weight is called fcc\*; the nearest are fc.weight"):
        cluster(clusters={"fcc*": 4}).compress(Net().eval(), context(splits))
    model = Net().eval()
    with torch.no_grad():
        model.fc.weight[0] = 0
    with pytest.raises(ValueError, match="its zeros take one"):
        cluster(clusters=1).compress(model, context(splits))


@pytest.mark.parametrize(
    "overrides", [["training@method.fine_tune=fine_tune"], ["training@method.fine_tune=fine_tune_distilled"]]
)
def test_sgd_is_refused_before_it_ruins_centroids(overrides: list[str]) -> None:
    with pytest.raises(InputError, match=r"method.fine_tune.optimizer is SGD.* choose Adam \(fine_tune_adam"):
        plan("method=cluster", *overrides)
    with pytest.raises(InputError, match=r"method.steps.cluster.fine_tune.optimizer is SGD"):
        plan("method=deep_compression", overrides[0].replace("method.", "method.steps.cluster."))


@pytest.mark.slow
def test_centroids_are_trained_under_teachers_by_adam(tmp_path: Path) -> None:
    base, row = experiment(plan("method=cluster", "training@method.fine_tune=fine_tune_adam_distilled"), tmp_path).run()
    assert row.identity != base.identity
    assert row.bits_per_weight == base.bits_per_weight == 32


def test_two_weights_of_one_value_stay_together_though_all_others_are_alone() -> None:
    """So few equal weights could be chance, where nothing says that they were clustered."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[0.0, 1.0, 1.0, 2.0]])
    layer.weight.grad = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    SumOfMembers(layer, ["weight"]).after_backward(layer)
    assert layer.weight.grad.tolist() == [[0.0, 5.0, 5.0, 4.0]]
