"""Unstructured pruning is exact, nested, and leaves no trace but zeros."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.contracts import DataSplits
from src.primitives.distributions import Layerwise
from src.primitives.schedules import Cubic, OneShot
from tests.methods.examples import Net, context, prune, recipe
from tests.plans import experiment, plan
from tests.primitives.foreign import IMAGE, Lists, Recurrent, Timmish


def zeros(model: nn.Module) -> dict[str, int]:
    return {name: int((p == 0).sum()) for name, p in model.named_parameters() if p.dim() > 1}


def test_global_scope_removes_exactly_the_smallest_of_all_weights(splits: DataSplits) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.dim() > 1}
    every = torch.cat([p.flatten() for p in before.values()]).abs()
    pruned = prune().compress(model, context(splits)).model
    gone = round(0.7 * every.numel())
    assert sum(zeros(pruned).values()) == gone
    threshold = every.sort().values[gone - 1]
    for name, p in pruned.named_parameters():
        if p.dim() > 1:
            assert torch.equal(p, torch.where(before[name].abs() > threshold, before[name], 0.0))


def test_layerwise_scope_removes_the_same_share_of_each_layer(splits: DataSplits) -> None:
    pruned = prune(distribution=Layerwise()).compress(Net().eval(), context(splits)).model
    assert zeros(pruned) == {"conv.weight": round(0.7 * 216), "fc.weight": round(0.7 * 20480)}


def test_ties_are_broken_by_index_so_that_the_count_is_exact(splits: DataSplits) -> None:
    model = Net().eval()
    with torch.no_grad():
        model.conv.weight.fill_(0.5)
        model.fc.weight.fill_(0.5)
    pruned = prune(distribution=Layerwise()).compress(model, context(splits)).model
    kept = pruned.get_parameter("conv.weight").flatten() != 0
    assert kept.tolist() == [True] * 65 + [False] * 151


def test_ignored_layers_stay_dense_and_an_unknown_name_lists_the_nearest(splits: DataSplits) -> None:
    pruned = prune(ignored=["fc.*"]).compress(Net().eval(), context(splits)).model
    assert zeros(pruned) == {"conv.weight": round(0.7 * 216), "fc.weight": 0}
    with pytest.raises(ValueError, match=r"no weight is called fd\.weight; the nearest are fc\.weight"):
        prune(ignored=["fd.weight"]).compress(Net().eval(), context(splits))


def test_what_is_pruned_enough_already_is_refused(splits: DataSplits) -> None:
    once = prune().compress(Net().eval(), context(splits)).model
    with pytest.raises(ValueError, match="nothing would be pruned"):
        prune(sparsity=0.5).compress(once, context(splits))


def test_a_second_pruning_keeps_the_zeros_of_the_first(splits: DataSplits) -> None:
    once = prune(sparsity=0.5).compress(Net().eval(), context(splits)).model
    first = {name: p == 0 for name, p in once.named_parameters() if p.dim() > 1}
    twice = prune(sparsity=0.8).compress(once, context(splits)).model
    for name, gone in first.items():
        assert bool((twice.get_parameter(name)[gone] == 0).all())


def test_masks_nest_and_are_applied_in_every_step_of_gradual_pruning(splits: DataSplits) -> None:
    from src.methods import _nncf

    seen: list[dict[str, torch.Tensor]] = []

    def steps(model: nn.Module, recipe: Any, callbacks: Any = (), loss: Any = None) -> None:
        model.to(memory_format=torch.channels_last)  # replaces buffers, as a move to a GPU does
        images = torch.randn(4, 3, 16, 16)
        for step in range(10):
            callbacks[0].before_step(model, step / 10)
            masks = {name: mask.clone() for name, mask in _nncf.masks_of(model).items()}
            seen.append(masks)
            model.zero_grad()
            model(images).square().sum().backward()
            for name, mask in masks.items():
                gradient = model.get_parameter(name).grad
                assert gradient is not None
                assert bool((gradient[~mask] == 0).all())
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(1e-4 * parameter.grad)

    schedule = Cubic(begin=0.0, end=0.5, updates=5)
    method = prune(schedule=schedule, fine_tune=recipe())
    pruned = method.compress(Net(), context(splits, steps)).model
    shares = [1 - sum(int(m.sum()) for m in masks.values()) / 20696 for masks in seen]
    assert shares == pytest.approx([schedule(step / 10, 0.7) for step in range(10)], abs=1e-4)
    for earlier, later in zip(seen, seen[1:], strict=False):
        assert all(bool((later[name] <= earlier[name]).all()) for name in later)
    assert sum(zeros(pruned).values()) == round(0.7 * 20696)


@pytest.mark.slow
def test_the_result_is_a_plain_network_that_computes_what_was_validated(tmp_path: Path) -> None:
    made = experiment(plan("model=small_cnn", "method=prune_magnitude", "training.epochs=3"), tmp_path)
    rows = made.run()
    record = made.store.find(rows[1].identity)
    assert record is not None
    assert rows[1].accuracy_validation == pytest.approx(record["validation_accuracy"], abs=0.04)
    weights = record["layers"]
    assert sum(round(layer["sparsity"] * layer["parameters"]) for layer in weights) == pytest.approx(
        0.8 * sum(layer["parameters"] for layer in weights), abs=2
    )


def test_batch_norm_is_adapted_to_the_calibration_images(splits: DataSplits) -> None:
    torch.manual_seed(0)
    plain = prune().compress(Net().eval(), context(splits)).model
    torch.manual_seed(0)
    adapted = prune(batch_norm_batches=2).compress(Net().eval(), context(splits)).model
    images = torch.cat([batch for batch, _ in context(splits).calibration])
    with torch.no_grad():
        wanted = adapted.conv(images).mean((0, 2, 3))  # type: ignore[operator]
    assert torch.equal(plain.bn.running_mean, torch.zeros(8))  # type: ignore[union-attr]
    assert torch.allclose(adapted.bn.running_mean, 0.19 * wanted, atol=0.05)  # type: ignore[union-attr]


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 1.5])
def test_a_sparsity_that_leaves_nothing_or_makes_no_sense_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        prune(sparsity=sparsity)


def test_the_best_epoch_is_refused_if_sparsity_grows() -> None:
    best = recipe(keep="best")
    with pytest.raises(ValueError, match=r"fine_tune\.keep must be last"):
        prune(fine_tune=best, schedule=Cubic(begin=0.0, end=0.5, updates=4))
    prune(fine_tune=best, schedule=OneShot())


@pytest.mark.parametrize(
    ("sparsity", "says"), [(0.0, "nothing would be pruned"), (0.9999999, "everything would be removed")]
)
def test_nothing_and_everything_are_refused(splits: DataSplits, sparsity: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        prune(sparsity=sparsity).compress(Net().eval(), context(splits))


def test_a_schedule_that_grows_is_refused_if_nothing_is_trained_meanwhile() -> None:
    with pytest.raises(ValueError, match=r"schedule grows .* fine_tune is null"):
        prune(schedule=Cubic(begin=0.0, end=0.5, updates=4))


@pytest.mark.slow
def test_the_validation_accuracy_on_record_is_that_of_the_weights_kept(tmp_path: Path) -> None:
    made = experiment(plan("method=prune_regularized", "method.sparsity=0.98"), tmp_path)
    for row in made.run():
        record = made.store.find(row.identity)
        assert record is not None
        assert record["validation_accuracy"] == pytest.approx(row.accuracy_validation, abs=1 / 29)


@pytest.mark.parametrize("build", [Timmish, Lists, Recurrent], ids=["subclasses", "lists", "gru"])
def test_a_mask_holds_for_every_use_of_a_parameter_while_the_network_is_trained(build: type[nn.Module]) -> None:
    from src.methods import _nncf
    from src.primitives.operands import operator_weights

    torch.manual_seed(0)
    model = build().eval()
    masked = _nncf.attach_masks(copy.deepcopy(model), operator_weights(model, IMAGE))
    masks = {name: torch.rand(mask.shape) < 0.5 for name, mask in _nncf.masks_of(masked).items()}
    _nncf.set_masks(masked, masks)
    with torch.no_grad():
        assert torch.equal(masked(IMAGE), _nncf.bake_masks(masked, model)(IMAGE))
