"""Learned pruning: exact in the end, and driven by what the gates learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from src.contracts import InputError
from src.methods.prune_regularized import PruneRegularized
from src.primitives.schedules import OneShot
from tests.methods.examples import Net, recipe
from tests.plans import experiment, plan


def test_the_sparsity_is_exact_and_ignored_layers_stay(tmp_path: Path) -> None:
    made = experiment(
        plan("method=prune_regularized", "model=lenet300", "method.sparsity=0.6", "method.ignored=[*3.weight]"),
        tmp_path,
    )
    _, row = made.run()
    record = made.store.find(row.identity)
    assert record is not None
    layers = {layer["name"]: layer for layer in record["layers"]}
    ignored = [layer for name, layer in layers.items() if name.endswith("3.weight")]
    pruned = [layer for name, layer in layers.items() if not name.endswith("3.weight")]
    assert [layer["sparsity"] for layer in ignored] == [0.0]
    zeros = sum(round(layer["sparsity"] * layer["parameters"]) for layer in pruned)
    assert zeros == pytest.approx(0.6 * sum(layer["parameters"] for layer in pruned), abs=1)


def test_a_name_that_matches_nothing_costs_no_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weight is called nothing"):
        experiment(plan("method=prune_regularized", "method.ignored=[nothing]"), tmp_path).run()
    assert not list((tmp_path / "artifacts").glob("*/stage.json"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sparsity": 0.0}, "sparsity must be in"),
        ({"sparsity": 1.0}, "sparsity must be in"),
        ({"strength": 0}, "strength must be more than 0"),
        ({"swing": -1}, "swing must be more than 0"),
        ({"strength": float("nan")}, "strength must be more than 0"),
        ({"swing": float("nan")}, "swing must be more than 0"),
        ({"sparsity": float("nan")}, "sparsity must be in"),
        ({"fine_tune": None}, "fine_tune is missing"),
        ({"fine_tune": recipe(keep="best")}, "fine_tune.keep must be last"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    given = {"sparsity": 0.5, "schedule": OneShot(), "strength": 0.05, "swing": 20.0, "ignored": []}
    with pytest.raises(ValueError, match=says):
        PruneRegularized(**{**given, "fine_tune": recipe(), **settings})


def test_gates_of_useless_weights_close_first() -> None:
    """Half of the inputs are noise that the labels do not follow: their weights go."""
    from src.methods import _nncf
    from src.methods.prune_regularized import _LogitUpdate

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(20, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    torch.manual_seed(0)
    held = _nncf.attach_gates(Net(), ["fc.weight"])
    method = PruneRegularized(
        sparsity=0.5, schedule=OneShot(), strength=0.05, swing=20.0, ignored=[], fine_tune=recipe()
    )
    penalty = _nncf.DensityPenalty(held, 0.05)
    callback = _LogitUpdate(method, ["fc.weight"], penalty)
    optimizer = torch.optim.SGD([held.get_parameter("fc.weight"), held.get_parameter("fc.bias")], lr=0.5)
    held.train()
    for step in range(300):
        x = torch.randn(256, 1, 4, 5)
        labels = (x.flatten(1)[:, :10].sum(1) > 0).long()
        callback.before_step(held, step / 300)
        loss = torch.nn.functional.cross_entropy(held(x), labels) + penalty()
        optimizer.zero_grad()
        loss.backward()
        callback.after_backward(held)
        optimizer.step()
        callback.after_step(held, (step + 1) / 300)
    logits = _nncf.logits_of(held)["fc.weight"].detach()
    assert float(logits[:, :10].mean()) > float(logits[:, 10:].mean()) + 1


def test_the_penalty_and_its_gradient_are_nncfs_to_the_bit() -> None:
    from nncf.torch.function_hook.pruning.rb.losses import RBLoss

    from src.methods import _nncf

    gated = _nncf.attach_gates(Net(), ["conv.weight", "fc.weight"])
    with torch.no_grad():
        for logits in _nncf.logits_of(gated).values():
            logits.copy_(torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)))
    ours, theirs = _nncf.DensityPenalty(gated, 0.07), RBLoss(gated, target_ratio=0.0, p=0.07)
    for sparsity in (0.0, 0.3, 0.81):
        ours.aim(sparsity)
        theirs.target_ratio = sparsity
        assert torch.equal(ours(), theirs())
        found = [torch.autograd.grad(penalty(), list(_nncf.logits_of(gated).values())) for penalty in (ours, theirs)]
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
