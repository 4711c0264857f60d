"""Relevance is the paper's sum, written out, and none of it is lost or doubled on its way through a network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, log_softmax, max_pool2d
from zennit.rules import Epsilon, Gamma, Norm, ZPlus

from src.contracts import Context
from src.models.lenet import LeNet5
from src.models.mobilenet import MobileNetV2
from src.models.resnet import BasicBlock, CifarResNet
from src.models.small_cnn import SmallCNN
from src.primitives.folding import fold_batch_norm
from src.primitives.relevance import Relevance, RelevanceMagnitude
from src.training.losses import CrossEntropy
from tests.plans import experiment, plan
from tests.primitives.foreign import IMAGE, Transformer

EPSILON = 1e-9


def relevance(kind: type[Relevance] = Relevance, **changed: Any) -> Relevance:
    rules = {"dense": Epsilon(EPSILON), "convolution": ZPlus(EPSILON), "addition": Norm(EPSILON), "images": 100}
    return kind(**{**rules, **changed})


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def context(images: Tensor, labels: Tensor, batch: int = 100) -> Context:
    batches = list(zip(images.split(batch), labels.split(batch), strict=True))
    return Context(batches, CrossEntropy(label_smoothing=0.0), images[:1], 0, lambda *_, **__: None)


def network(module: nn.Module) -> nn.Module:
    """In float64 and eval mode, with no bias: then no relevance is lost to one; batch norm has seen some data."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight)
            part.bias = None
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return module.double().eval()


def names_of(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.dim() > 1]


def flow(model: nn.Module, images: Tensor, labels: Tensor, **rules: Any) -> tuple[Tensor, dict[str, Tensor], float]:
    """The relevance of the images and of each weight, and what must be their sum."""
    names = names_of(model)
    found, *weights = relevance(**rules).propagate(model, [model.get_parameter(name) for name in names], images, labels)
    with torch.no_grad():
        total = float(model(images).gather(1, labels.unsqueeze(1)).sum())
    return found, dict(zip(names, weights, strict=True)), total


class Dense(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 5, bias), nn.Linear(5, 4, bias), nn.Linear(4, 3, bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.three(torch.relu(self.two(torch.relu(self.one(images.flatten(1))))))


def by_hand(model: Dense, image: Tensor, label: int) -> tuple[dict[str, Tensor], list[list[float]]]:
    """LRP-epsilon in loops: R_ij = x_i w_ij / (z_j + e sign z_j) R_j, and R_i = sum_j R_ij (Bach et al. 2015)."""
    layers = {"one": model.one, "two": model.two, "three": model.three}
    activations = [image.flatten().tolist()]
    sums = []
    for layer in layers.values():
        weight, bias, x = layer.weight.tolist(), layer.bias, activations[-1]
        offset = [0.0] * len(weight) if bias is None else bias.tolist()
        z = [sum(x[i] * row[i] for i in range(len(x))) + offset[j] for j, row in enumerate(weight)]
        sums.append(z)
        activations.append([max(0.0, value) for value in z])
    units = [[value if j == label else 0.0 for j, value in enumerate(sums[-1])]]
    weights = {}
    for name, x, z in zip(reversed(layers), reversed(activations[:-1]), reversed(sums), strict=True):
        weight = layers[name].weight.tolist()
        scores = [
            [x[i] * weight[j][i] / (z[j] + EPSILON * (1 if z[j] >= 0 else -1)) * units[0][j] for i in range(len(x))]
            for j in range(len(z))
        ]
        weights[f"{name}.weight"] = torch.tensor(scores, dtype=torch.float64)
        units.insert(0, [sum(scores[j][i] for j in range(len(z))) for i in range(len(x))])
    return weights, units


@pytest.mark.parametrize("bias", [False, True])
def test_a_dense_net_has_the_relevance_of_the_closed_form(bias: bool) -> None:
    torch.manual_seed(1)
    model, images, labels = Dense(bias).double().eval(), drawn(3, 1, 2, 2), torch.tensor([0, 2, 1])
    expected = [by_hand(model, image, int(label)) for image, label in zip(images, labels, strict=True)]
    scores = relevance()(model, names_of(model), context(images, labels, batch=2))
    for name, score in scores.items():
        assert torch.allclose(score, torch.stack([weights[name] for weights, _ in expected]).sum(0), atol=1e-12)
    absolute = relevance(RelevanceMagnitude)(model, names_of(model), context(images, labels, batch=2))
    for name, score in absolute.items():
        assert torch.allclose(score, torch.stack([weights[name].abs() for weights, _ in expected]).sum(0), atol=1e-12)
    found, _, _ = flow(model, images, labels)
    assert torch.allclose(found.flatten(1), torch.tensor([units[0] for _, units in expected], dtype=torch.float64))


def test_the_weights_into_a_unit_sum_to_its_relevance_and_every_layer_to_the_logit() -> None:
    torch.manual_seed(1)
    model, image, label = Dense(False).double().eval(), drawn(1, 1, 2, 2), torch.tensor([2])
    _, units = by_hand(model, image, 2)
    found, weights, total = flow(model, image, label)
    for name, unit in zip(("one.weight", "two.weight", "three.weight"), units[1:], strict=True):
        assert torch.allclose(weights[name].sum(1), torch.tensor(unit, dtype=torch.float64))
        assert float(weights[name].sum()) == pytest.approx(total)
    assert float(found.sum()) == pytest.approx(total)


class OneConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).sum((2, 3))


def test_z_plus_in_a_convolution_is_that_of_loops() -> None:
    torch.manual_seed(2)
    model, images = OneConvolution().double().eval(), drawn(1, 2, 3, 3)
    w, bias = model.conv.weight.detach(), model.conv.bias.detach()  # type: ignore
    label = int(bias.argmax())
    outputs = conv2d(images, w, bias)[0, label]
    expected, pixels = torch.zeros_like(w), torch.zeros_like(images)
    at = [(c, i, j) for c in range(2) for i in range(2) for j in range(2)]
    for y in range(2):
        for x in range(2):
            of_position = float(outputs[y, x])  # its share of the sum, the logit
            kept = {k: max(0.0, float(w[label][k] * images[0, k[0], y + k[1], x + k[2]])) for k in at}
            below = sum(kept.values()) + max(0.0, float(bias[label]))
            for (c, i, j), contribution in kept.items():
                expected[label, c, i, j] += contribution / below * of_position
                pixels[0, c, y + i, x + j] += contribution / below * of_position
    found, weights, _ = flow(model, images, torch.tensor([label]))
    assert torch.allclose(weights["conv.weight"], expected)
    assert torch.allclose(found, pixels)


class Residual(nn.Module):
    """The project's block, then what users write: ``+=``, activations in place, a constant factor, an average."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.conv, self.fc = BasicBlock(3, 6, 2), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.block(images)
        again = self.conv(hidden)
        again += hidden
        again.relu_()
        again = torch.add(again * 0.5, hidden, alpha=2)
        return self.fc(again.mean((2, 3)))


class Joined(nn.Module):
    """A layer used twice, a concatenation, a normalization that nothing can fold, pooling, a gate, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.gate = nn.BatchNorm2d(8), nn.Linear(8, 8)
        self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.stem(images))
        again = self.twice(torch.relu(self.twice(hidden)))
        joined = max_pool2d(torch.relu(self.bn(torch.cat([hidden, again], 1))), 2)
        joined = joined * torch.sigmoid(self.gate(joined.mean((2, 3))))[:, :, None, None]
        flat = torch.relu(self.fc(joined.mean((2, 3))))
        return log_softmax(self.out(flat @ self.fc.weight.t()), 1)


@pytest.mark.parametrize("convolution", [ZPlus(EPSILON), Epsilon(EPSILON), Gamma(0.25, EPSILON)])
@pytest.mark.parametrize("kind", [Residual, Joined])
def test_relevance_is_conserved_through_additions_concatenations_and_reuse(
    kind: type[nn.Module], convolution: Any
) -> None:
    model, images, labels = network(kind()), drawn(2, 3, 8, 8), torch.tensor([1, 3])
    fold_batch_norm(model, images[:1])
    if isinstance(convolution, ZPlus):  # which loses the relevance of a unit that nothing speaks for
        images = images.abs()
        for name in names_of(model):
            model.get_parameter(name).data.abs_()
    before = images.clone()
    last = model.fc if kind is Residual else model.out
    seen: list[Tensor] = []
    last.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))  # type: ignore
    found, weights, _ = flow(model, images, labels, convolution=convolution)
    total = float(seen[0].gather(1, labels.unsqueeze(1)).sum())  # the logits, before a log_softmax
    assert abs(total) > 1e-3
    assert float(found.sum()) == pytest.approx(total, rel=1e-5)
    top = "fc.weight" if kind is Residual else "out.weight"
    assert float(weights[top].sum()) == pytest.approx(total, rel=1e-6)
    assert torch.equal(images, before)


def test_a_layer_used_twice_has_the_relevance_of_two_layers_with_its_weight() -> None:
    class Twice(nn.Module):
        def __init__(self, second: bool) -> None:
            super().__init__()
            self.a, self.fc = nn.Linear(4, 4, bias=False), nn.Linear(4, 3, bias=False)
            self.b = nn.Linear(4, 4, bias=False) if second else self.a

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(torch.relu(self.b(torch.relu(self.a(images.flatten(1))))))

    once, two = network(Twice(False)), network(Twice(True))
    two.load_state_dict(once.state_dict())
    images, labels = drawn(3, 1, 2, 2), torch.tensor([0, 1, 2])
    pixels, shared, _ = flow(once, images, labels)
    expected, apart, _ = flow(two, images, labels)
    assert torch.equal(pixels, expected)
    assert torch.allclose(shared["a.weight"], apart["a.weight"] + apart["b.weight"])


def test_folded_batch_norm_gives_the_relevance_of_the_net_without_it() -> None:
    class Plain(nn.Module):
        def __init__(self, norm: bool) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
            self.bn = nn.BatchNorm2d(4) if norm else nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            return self.fc(torch.relu(self.bn(self.conv(images))).mean((2, 3)))

    torch.manual_seed(3)
    normed, plain = Plain(True).double(), Plain(False).double().eval()
    for _ in range(3):
        normed(drawn(8, 3, 6, 6))
    normed.eval()
    bn = normed.bn
    assert isinstance(bn, nn.BatchNorm2d)
    nn.init.uniform_(bn.weight, -1.0, 1.0)
    nn.init.uniform_(bn.bias, -1.0, 1.0)
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)  # type: ignore
    with torch.no_grad():
        plain.fc.load_state_dict(normed.fc.state_dict())
        plain.conv.weight.copy_(normed.conv.weight * scale[:, None, None, None])
        plain.conv.bias.copy_((normed.conv.bias - bn.running_mean) * scale + bn.bias)  # type: ignore
    calibration = context(drawn(4, 3, 6, 6), torch.tensor([0, 1, 2, 0]))
    scores, expected = (relevance()(model, names_of(model), calibration) for model in (normed, plain))
    for name in expected:
        assert torch.allclose(scores[name], expected[name])


MODELS = {
    "lenet": lambda: LeNet5(num_classes=4, in_channels=3, image_size=(16, 16)),
    "cnn": lambda: SmallCNN(
        blocks=[[4], [6]],
        dense=8,
        padding=1,
        batch_norm=True,
        dropout=0.5,
        num_classes=4,
        in_channels=3,
        image_size=(16, 16),
    ),
    "resnet": lambda: CifarResNet(depth=8, num_classes=4, in_channels=3),
    "mobilenet": lambda: MobileNetV2(width=0.1, stem_stride=1, num_classes=4, in_channels=3),
}


@pytest.mark.parametrize("kind", [Relevance, RelevanceMagnitude])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_every_architecture_is_scored_and_left_as_it_was(build: Any, kind: type[Relevance]) -> None:
    torch.manual_seed(0)
    model = build()
    names = names_of(model)
    with torch.no_grad():
        for name in names:  # some are pruned already, one layer whole
            model.get_parameter(name).mul_(torch.rand_like(model.get_parameter(name)) < 0.7)
        model.get_parameter(names[1]).zero_()
    before = copy.deepcopy(model.state_dict())
    calibration = context(drawn(5, 3, 16, 16).float(), torch.tensor([0, 1, 2, 3, 0]), batch=3)
    rules = relevance(kind, dense=Epsilon(1e-6), convolution=Gamma(0.25, 1e-6), addition=Norm(1e-6))
    with torch.no_grad():  # as a pruning calls it
        scores, again = rules(model, names, calibration), rules(model, names, calibration)
    assert list(scores) == names
    for name, score in scores.items():
        weight = model.get_parameter(name)
        assert score.shape == weight.shape
        assert bool(score.isfinite().all())
        assert not score.requires_grad
        assert bool((score[weight == 0] == 0).all())
        assert torch.equal(score, again[name])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert model.training


def test_a_resnet_hands_all_relevance_to_the_image() -> None:
    model, images = network(CifarResNet(depth=8, num_classes=4, in_channels=3)), drawn(2, 3, 16, 16)
    found, weights, total = flow(model, images, torch.tensor([0, 3]))
    assert float(found.sum()) == pytest.approx(total, rel=1e-5)
    assert float(weights["conv.weight"].sum()) == pytest.approx(total, rel=1e-5)


def test_only_the_first_images_count() -> None:
    torch.manual_seed(0)
    model, images, labels = Dense(True).double(), drawn(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    some = relevance(images=3)(model, ["two.weight"], context(images, labels, batch=2))
    alone = relevance()(model, ["two.weight"], context(images[:3], labels[:3]))
    assert torch.allclose(some["two.weight"], alone["two.weight"])


def test_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no calibration image to score by"):
        relevance()(Dense(True).double(), ["two.weight"], Context([], lambda *_: _[0], drawn(1, 1, 2, 2), 0, None))  # type: ignore
    with pytest.raises(ValueError, match="images must be at least 1, and is 0"):
        relevance(images=0)


def test_pruning_by_relevance_is_exact(tmp_path: Path) -> None:
    made = experiment(
        plan("model=small_cnn", "model.blocks=[[8],[16]]", "model.dense=32", "method=prune_relevance"), tmp_path
    )
    record = made.store.find(made.run()[1].identity)
    assert record is not None
    layers = record["layers"]
    pruned = sum(round(layer["sparsity"] * layer["parameters"]) for layer in layers)
    assert pruned == round(0.8 * sum(layer["parameters"] for layer in layers))


def test_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="relevance cannot be propagated through attention; choose other scores"):
        relevance()(Transformer().eval(), ["fc.weight"], context(IMAGE, torch.tensor([0])))
