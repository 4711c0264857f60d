"""From what people's networks give to one logit for each class."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torchvision.models
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softmax

from src.contracts import DataSplits, InputError
from src.models.build import NetworkSource, build_model
from src.models.outputs import ChosenOutput, LogOfProbabilities, TwoLogits

Pair = namedtuple("Pair", ["logits", "aux"])


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Base(nn.Module):
    """Ten logits of 16x16 colour images; ``give`` makes of them what a user's network returns."""

    def __init__(self, give: Any, classes: int = 10, images_too: bool = False) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, classes)
        self.head = nn.Linear(4, classes)
        self.give = give

    def forward(self, images: Tensor) -> Any:
        hidden = self.bn(self.conv(images)).relu().mean((2, 3))
        return self.give(self, self.fc(hidden), hidden)


def built(splits: DataSplits, give: Any, output: str | None = None, **settings: Any) -> tuple[nn.Module, list[str]]:
    said: list[str] = []
    source = NetworkSource(partial(Base, give, **settings), output)
    return build_model(source, splits, 0, say=said.append).eval(), said


def plain(splits: DataSplits, **settings: Any) -> nn.Module:
    """The same network of the same seed, which gives its logits alone."""
    return built(splits, lambda _, logits, __: logits, **settings)[0]


IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda _, logits, hidden: {"out": logits, "hidden": hidden}, "out"),
        (lambda _, logits, hidden: (hidden, logits), "1"),
        (lambda _, logits, hidden: Output(logits, hidden), "logits"),
        (lambda _, logits, hidden: Pair(logits, hidden), "logits"),
        (lambda _, logits, hidden: ({"a": logits},), "0.a"),
    ],
    ids=["dict", "tuple", "dataclass", "namedtuple", "nested"],
)
def test_the_only_output_of_one_logit_a_class_is_taken_and_said(splits: DataSplits, give: Any, said: str) -> None:
    model, lines = built(splits, give)
    assert torch.equal(model(IMAGES), plain(splits)(IMAGES))
    assert torch.equal(model.train()(IMAGES), plain(splits).train()(IMAGES))
    assert lines == [f"the network's output {said} is used as its logits"]


def test_of_several_outputs_the_one_that_is_named_is_taken(splits: DataSplits) -> None:
    def give(net: Base, logits: Tensor, hidden: Tensor) -> Any:
        return {"first": net.head(hidden), "second": logits}

    with pytest.raises(InputError, match=r"model\.output must say which .* logits: first, second$"):
        built(splits, give)
    assert torch.equal(built(splits, give, "second")[0](IMAGES), plain(splits)(IMAGES))
    with pytest.raises(InputError, match=r"model\.output: third is no tensor .* first \(1, 10\), second \(1, 10\)"):
        built(splits, give, "third")


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda _, logits, hidden: [{"boxes": hidden, "scores": hidden, "labels": hidden}], "detects objects"),
        (lambda _, logits, hidden: logits[:, :, None, None], "a class for each pixel"),
        (lambda _, logits, hidden: {"out": logits[:, :, None, None]}, "a class for each pixel"),
        (lambda _, logits, hidden: (hidden, hidden), "gives tuple of 0 (1, 4), 1 (1, 4); it must give 10 logits"),
    ],
    ids=["detection", "segmentation", "segmentation_in_a_dict", "features"],
)
def test_networks_that_classify_no_images_are_refused_in_a_line(splits: DataSplits, give: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        built(splits, give)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torchvisions_segmentation_and_detection_are_refused_in_a_line(splits: DataSplits) -> None:
    segmenter = partial(torchvision.models.segmentation.lraspp_mobilenet_v3_large, weights=None, weights_backbone=None)
    with pytest.raises(InputError, match="a class for each pixel"):
        build_model(segmenter, splits, 0)
    detector = partial(torchvision.models.detection.ssdlite320_mobilenet_v3_large, weights=None, weights_backbone=None)
    with pytest.raises(InputError, match="model: "):
        build_model(detector, splits, 0)


# Auxiliary logits ---------------------------------------------------------------------------------


def auxiliary(net: Base, logits: Tensor, hidden: Tensor) -> Any:
    return Pair(logits, net.head(hidden)) if net.training else logits


def test_auxiliary_logits_ride_on_the_logits_in_training_alone(splits: DataSplits) -> None:
    said: list[str] = []
    model = build_model(partial(Base, auxiliary), splits, 0, say=said.append, auxiliary=True)
    logits = model.train()(IMAGES)
    (other,) = logits.auxiliary
    assert logits.shape == other.shape == (5, 10)
    assert not hasattr(model.eval()(IMAGES), "auxiliary")
    assert said == ["auxiliary logits (aux) are trained with training.auxiliary_weight and then removed"]


@pytest.mark.parametrize("kept", [True, False], ids=["to_train", "to_use"])
def test_heads_whose_mean_is_the_networks_output_are_both_trained(splits: DataSplits, kept: bool) -> None:
    def distilled(net: Base, logits: Tensor, hidden: Tensor) -> Any:
        second = net.head(hidden)
        return (logits, second) if net.training else (logits + second) / 2

    said: list[str] = []
    model = build_model(partial(Base, distilled), splits, 0, say=said.append, auxiliary=kept)
    logits = model.train()(IMAGES)
    torch.testing.assert_close(logits, torch.stack(model.net(IMAGES)).mean(0))
    assert not hasattr(logits, "auxiliary")
    logits.sum().backward()
    assert torch.equal(model.net.fc.weight.grad, model.net.head.weight.grad)
    assert said == [
        "the network gives the mean of its training outputs (0, 1) in eval mode: their mean is trained, too"
    ]


def test_auxiliary_logits_without_modules_of_their_own_are_not_called_removed(splits: DataSplits) -> None:
    def give(net: Base, logits: Tensor, _: Tensor) -> Any:
        return Pair(logits, 2 * logits) if net.training else logits

    said: list[str] = []
    model = build_model(partial(Base, give), splits, 0, say=said.append, auxiliary=True)
    assert len(model.train()(IMAGES).auxiliary) == 1
    assert said == ["auxiliary logits (aux) are trained with training.auxiliary_weight"]


def test_dropped_auxiliary_logits_leave_no_weight_and_the_same_function(splits: DataSplits) -> None:
    with_them = build_model(partial(Base, auxiliary), splits, 0, auxiliary=True)
    without = build_model(partial(Base, auxiliary), splits, 0)
    assert with_them.state_dict().keys() - without.state_dict().keys() == {"net.head.weight", "net.head.bias"}
    assert torch.equal(with_them.eval()(IMAGES), without.eval()(IMAGES))
    assert not hasattr(without.train()(IMAGES), "auxiliary")


def test_googlenets_auxiliary_heads_are_found_and_dropped(splits: DataSplits) -> None:
    builder = partial(torchvision.models.googlenet, weights=None, init_weights=False)
    assert len(build_model(builder, splits, 0, auxiliary=True).train()(IMAGES).auxiliary) == 2
    model = build_model(builder, splits, 0)
    assert not [name for name in model.state_dict() if "aux" in name]
    assert model.train()(IMAGES).shape == (5, 10)


# One logit, probabilities -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(splits: DataSplits) -> DataSplits:
    from dataclasses import replace

    return replace(splits, classes=("no", "yes"))


@pytest.mark.parametrize("give", [lambda _, z, __: z, lambda _, z, __: z.squeeze(1)], ids=["column", "vector"])
def test_one_logit_for_two_classes_is_binary_cross_entropy(two: DataSplits, give: Any) -> None:
    model, _ = built(two, give, classes=1)
    assert isinstance(model, TwoLogits)
    z, labels = model.net(IMAGES).reshape(-1), torch.tensor([0, 1, 1, 0, 1])
    logits = model(IMAGES)
    torch.testing.assert_close(softmax(logits, 1)[:, 1], z.sigmoid())
    torch.testing.assert_close(cross_entropy(logits, labels), binary_cross_entropy_with_logits(z, labels.float()))
    assert torch.equal(logits.argmax(1), (z > 0).long())


def test_one_logit_for_ten_classes_is_refused(splits: DataSplits) -> None:
    with pytest.raises(InputError, match=r"gives \(1, 1\); it must give 10 logits"):
        built(splits, lambda _, z, __: z, classes=1)


def test_one_probability_for_two_classes_is_found(two: DataSplits) -> None:
    model, lines = built(two, lambda _, z, __: z.sigmoid().squeeze(1), classes=1)
    assert isinstance(model, LogOfProbabilities)
    torch.testing.assert_close(softmax(model(IMAGES), 1)[:, 1], model.net(IMAGES))
    assert "ends in sigmoid" in lines[0]


class Ending(Base):
    """Ends in a softmax module."""

    def __init__(self) -> None:
        super().__init__(lambda net, logits, _: net.ending(logits))
        self.ending = nn.Softmax(dim=1)


def test_a_softmax_module_at_the_end_is_taken_out_so_that_logits_are_exact(splits: DataSplits) -> None:
    said: list[str] = []
    model = build_model(Ending, splits, 0, say=said.append).eval()
    assert torch.equal(model(IMAGES), plain(splits)(IMAGES))
    assert said == ["the network ends in softmax (ending): its files give the logits before it"]


def test_a_softmax_function_at_the_end_becomes_logarithms(splits: DataSplits) -> None:
    model, lines = built(splits, lambda _, logits, __: softmax(logits, 1))
    assert isinstance(model, LogOfProbabilities)
    torch.testing.assert_close(softmax(model(IMAGES), 1), softmax(plain(splits)(IMAGES), 1))
    assert lines == ["the network ends in softmax: its files give logarithms of the probabilities"]


def test_logits_and_a_softmax_inside_a_network_stay(splits: DataSplits) -> None:
    def give(net: Base, logits: Tensor, hidden: Tensor) -> Tensor:
        return net.fc(hidden * softmax(hidden, 1))

    model, lines = built(splits, give)
    assert (type(model), lines) == (Base, [])


def test_only_the_wrapper_of_the_chosen_output_knows_the_networks_result(splits: DataSplits) -> None:
    model, _ = built(splits, lambda _, logits, __: (softmax(logits, 1),))
    assert isinstance(model, LogOfProbabilities)
    assert isinstance(model.net, ChosenOutput)


@pytest.mark.parametrize("ending", [partial(softmax, dim=1), torch.sigmoid], ids=["softmax", "sigmoid"])
def test_a_network_that_ends_in_probabilities_only_in_eval_mode_learns_from_its_logits(
    splits: DataSplits, two: DataSplits, ending: Any
) -> None:
    single = ending is torch.sigmoid
    model, lines = built(
        two if single else splits,
        lambda net, z, _: z if net.training else ending(z),
        classes=1 if single else 10,
    )
    given, logits = model.train()(IMAGES), model.net(IMAGES)
    torch.testing.assert_close(given[:, 1:] - given[:, :1], logits if single else logits[:, 1:] - logits[:, :1])
    shares = model.eval().net(IMAGES)
    torch.testing.assert_close(softmax(model(IMAGES), 1)[:, -1], shares[:, -1])
    assert "in eval mode only: its files give" in lines[0]


@pytest.mark.parametrize(
    "ending", [lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6), nn.functional.hardsigmoid], ids=["clamped", "hard"]
)
def test_one_probability_is_found_whatever_makes_it(two: DataSplits, ending: Any) -> None:
    model, _ = built(two, lambda _, z, __: ending(z), classes=1)
    assert isinstance(model, LogOfProbabilities)
    plain_state = plain(two, classes=1).net.state_dict()
    assert all(torch.equal(value, plain_state[name]) for name, value in model.net.state_dict().items())


def test_one_logit_that_is_in_0_to_1_by_chance_stays_a_logit(two: DataSplits) -> None:
    def give(net: Base, _: Tensor, hidden: Tensor) -> Tensor:
        return net.fc(nn.functional.layer_norm(hidden, (4,))) * 0.1 + 0.5

    assert isinstance(built(two, give, classes=1)[0], TwoLogits)


def test_a_sigmoid_for_each_class_is_refused_in_a_line(splits: DataSplits) -> None:
    with pytest.raises(InputError, match="a sigmoid for each class .* let it return the logits before"):
        built(splits, lambda _, logits, __: logits.sigmoid())
