"""Methods on networks of timm and torchvision: what was asked is reached, and nothing fails."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from src.contracts import Compressed, Context, QuantizingMethod
from src.experiment.claims import checked
from src.methods import _nncf
from src.metrics.layers import describe_layers
from src.primitives.keeping import Keep
from src.primitives.operands import operator_weights
from src.training.losses import CrossEntropy
from tests.odd_networks import AsksForItsVersion
from tests.plans import plan
from tests.primitives.networks import settled

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def from_timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        timm = pytest.importorskip("timm")
        return timm.create_model(name, num_classes=10, **settings)

    return build


def from_torchvision(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(num_classes=10, **settings)

    return build


NETWORKS = {
    "mobilenetv3": from_timm("mobilenetv3_small_050"),  # normalizations with an activation, squeeze and excitation
    "shufflenet": from_torchvision("shufflenet_v2_x0_5"),
    "vit": from_timm("vit_tiny_patch16_224", img_size=64, depth=2),
    "edgenext": from_timm("edgenext_xx_small"),  # attention over channels, layer scale
    "tensorflow": from_timm("tf_mobilenetv3_small_minimal_100"),  # convolutions that pad by themselves (Conv2dSame)
    "squeezenet": from_torchvision("squeezenet1_1"),  # concatenation, a classifier that is a convolution
}
METHODS = {
    "prune_magnitude": [],
    "prune_regularized": [],
    "cluster": [],
    "low_rank": [],
    "quantize_uniform": [],
    "prune_channels": ["method.sparsity=0.2"],
    "deep_compression": [],
}
EVERY = [(method, network) for method in METHODS for network in NETWORKS]
SAMPLE = [(method, list(NETWORKS)[at % len(NETWORKS)]) for at, method in enumerate(METHODS)]


def one_step(model: nn.Module, recipe: Any, callbacks: Any = (), loss: Any = None) -> None:
    """Train one step with all that happens around it."""
    images, labels = torch.cat([IMAGE, -IMAGE]), torch.tensor([0, 1])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()
    callbacks = [*callbacks, Keep(model)]
    for callback in callbacks:
        callback.before_step(model, 0.999)
    (loss or CrossEntropy(label_smoothing=0.0))(model(images), labels, images).backward()
    for callback in callbacks:
        callback.after_backward(model)
    optimizer.step()
    for callback in callbacks:
        callback.after_step(model, 1.0)
    model.eval()


def built(network: str) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return settled(NETWORKS[network]())


@pytest.mark.slow
@pytest.mark.parametrize(("method", "network"), EVERY if os.environ.get("CONFORMANCE") == "all" else SAMPLE)
def test_what_a_method_is_asked_is_reached_on_every_network(method: str, network: str) -> None:
    model = built(network)
    before = describe_layers(model, {})
    batches = [(torch.cat([IMAGE, -IMAGE]), torch.tensor([0, 1]))]
    context = Context(batches, CrossEntropy(label_smoothing=0.0), IMAGE, 0, one_step)
    for name, step in plan(f"method={method}", *METHODS[method]).steps.items():
        made = Compressed.of(step.value.compress(copy.deepcopy(model), context))
        checked(name, made, IMAGE)
        model = made.model.eval()
        if made.claims:
            assert set(made.claims) <= set(operator_weights(model, IMAGE))
        if "zeros" in step.value.makes:
            weights = [model.get_parameter(weight) for weight in made.claims]
            zeros = sum(int((weight == 0).sum()) for weight in weights)
            assert zeros == pytest.approx(vars(step.value)["sparsity"] * sum(w.numel() for w in weights), abs=1)
    stored = step.value.stored_weights(model) if isinstance(step.value, QuantizingMethod) else {}
    after = describe_layers(model, stored)
    counts = [sum(layer["parameters"] for layer in layers) for layers in (before, after)]
    assert counts[1] < counts[0] if method in ("prune_channels", "low_rank") else counts[1] == counts[0]
    if method in ("cluster", "deep_compression"):
        reached = [layer["distinct_values"] for layer in after if layer["name"] in made.claims]
        assert max(reached) <= 16
    assert model(torch.cat([IMAGE, IMAGE])).shape == (2, 10)


def test_masks_are_baked_where_layers_ask_for_their_version() -> None:
    model = AsksForItsVersion(3)
    masked = _nncf.attach_masks(copy.deepcopy(model), ["classifier.weight"])
    _nncf.set_masks(masked, {"classifier.weight": torch.zeros(3, 8, dtype=torch.bool)})
    baked = _nncf.bake_masks(masked, model)
    assert float(baked.get_parameter("classifier.weight").detach().abs().sum()) == 0
    assert float(baked.get_parameter("convolution.weight").detach().abs().sum()) > 0
