"""Structured pruning removes the lowest channels, tied ones together, to the target, and can be rebuilt to the bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.contracts import Compressed, Context, Recipe
from src.methods.prune_channels import PruneChannels, _allowed_counts, _nearest
from src.primitives.channels import remove_units, shapes_of
from src.primitives.costs import Bytes, Channels, Cost, Macs, Parameters
from src.primitives.distributions import Global, Layerwise
from src.primitives.normalizations import ByMean, ByNorm
from src.primitives.scores import Magnitude, Random, Taylor
from src.primitives.tying import tie_channels
from src.training.losses import CrossEntropy
from tests.methods.examples import recipe
from tests.plans import experiment, plan
from tests.primitives.foreign import Lists, Recurrent, Shuffle, Standardized, Timmish, Transformer
from tests.primitives.networks import IMAGE, NETWORKS, Joined, Plain, seeded


def method(**changed: Any) -> PruneChannels:
    settings: dict[str, Any] = {
        "sparsity": 0.5,
        "cost": Channels(),
        "scores": Magnitude(),
        "distribution": Layerwise(),
        "normalization": None,
        "round_to": 1,
        "steps": 1,
        "ignored": [],
        "batch_norm_batches": 0,
        "fine_tune": None,
    }
    return PruneChannels(**{**settings, **changed})


def context(fine_tune: Any = None, seed: int = 0, image: Tensor = IMAGE) -> Context:
    generator = torch.Generator().manual_seed(9)
    batches = [(torch.randn(4, *image.shape[1:], generator=generator), torch.arange(4)) for _ in range(2)]
    return Context(batches, CrossEntropy(label_smoothing=0.0), image, seed, fine_tune)


def removed(made: Compressed) -> dict[str, list[int]]:
    """The indices of the removed channels by layer, as recorded."""
    assert made.structure is not None
    return {name: [index for index, _ in entries] for name, entries in made.structure["removed"].items()}


# Which channels go --------------------------------------------------------------------------------


class Tiny(nn.Module):
    """Two filters of one weight each, ``[1, 3, 2, 4]`` and ``[2, 5]``, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 4, 1, bias=False)
        self.two = nn.Conv2d(4, 2, 1, bias=False)
        self.fc = nn.Linear(2, 2)
        self.one.weight.data = torch.tensor([1.0, -3.0, 2.0, 4.0]).view(4, 1, 1, 1)
        self.two.weight.data = torch.tensor([[0.625, 0.625, 0.625, 0.625], [1.0, -1.0, 2.0, -2.0]]).view(2, 4, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.two(torch.relu(self.one(images))).mean((2, 3)))


PIXELS = torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_the_channels_of_smallest_sum_of_weights_are_removed_with_all_that_reads_them() -> None:
    model = Tiny()
    made = method().compress(model, context(image=PIXELS))
    pruned = made.model
    assert made.structure is not None
    assert pruned.one.weight.flatten().tolist() == [-3, 4]  # type: ignore[operator, union-attr]
    assert pruned.two.weight.flatten().tolist() == [-1, -2]  # type: ignore[operator, union-attr]
    assert torch.equal(pruned.fc.weight, model.fc.weight[:, 1:])  # type: ignore[arg-type]
    assert made.structure["removed"] == {"one": [[0, 1.0], [2, 2.0]], "two": [[0, 2.5]]}


def test_global_scope_removes_the_lowest_of_all_and_normalization_changes_which() -> None:
    # Scores 1 3 2 4 and 2.5 6. Two channels of six have to go.
    made = method(distribution=Global(), sparsity=2 / 6).compress(Tiny(), context(image=PIXELS))
    assert removed(made) == {"one": [0, 2]}
    # Over their means 2.5 and 4.25: 0.4 1.2 0.8 1.6 and 0.59 1.41.
    normalized = method(distribution=Global(), sparsity=2 / 6, normalization=ByMean())
    assert removed(normalized.compress(Tiny(), context(image=PIXELS))) == {"one": [0], "two": [0]}


def test_kept_channels_of_a_plain_network_equal_the_slow_closed_form() -> None:
    model = seeded(Plain)
    pruned = method(round_to=8).compress(copy.deepcopy(model), context()).model
    keep: dict[str, list[int]] = {}
    for name, count in (("one", 8), ("two", 8)):
        sums = [sum(abs(w) for w in row) for row in model.get_parameter(f"{name}.weight").flatten(1).double().tolist()]
        keep[name] = sorted(sorted(range(len(sums)), key=lambda at: -sums[at])[:count])
    assert pruned.two.weight.shape == (8, 8, 3, 3)  # type: ignore[union-attr]
    assert torch.equal(pruned.one.weight, model.one.weight[keep["one"]])  # type: ignore[index, union-attr]
    assert torch.equal(pruned.bn.running_var, model.bn.running_var[keep["one"]])  # type: ignore[index, union-attr]
    assert torch.equal(pruned.two.weight, model.two.weight[keep["two"]][:, keep["one"]])  # type: ignore[index, union-attr]
    columns = [channel * 4 + place for channel in keep["two"] for place in range(4)]
    assert torch.equal(pruned.fc.weight, model.fc.weight[:, columns])  # type: ignore[index, union-attr]


def test_tied_layers_lose_the_same_channels_by_the_sum_of_their_scores() -> None:
    model = seeded(NETWORKS["resnet"])
    gone = removed(method(round_to=8, cost=Parameters()).compress(copy.deepcopy(model), context()))
    for one, other in (
        ("conv", "blocks.0.conv2"),
        ("blocks.1.conv2", "blocks.1.shortcut.0"),
        ("blocks.2.conv2", "blocks.2.shortcut.0"),
    ):
        assert gone.get(one) == gone.get(other)
        if one in gone:
            both = [model.get_parameter(f"{n}.weight").abs().double().flatten(1).sum(1) for n in (one, other)]
            assert gone[one] == sorted((both[0] + both[1]).argsort()[: len(gone[one])].tolist())
    assert any(name in gone for name in ("conv", "blocks.1.conv2", "blocks.2.conv2"))


def test_a_depthwise_convolution_goes_with_the_layer_before_it() -> None:
    model = seeded(NETWORKS["mobilenet"])
    made = method(round_to=8, cost=Parameters()).compress(model, context())
    pruned, gone = made.model, removed(made)
    depthwise = [name for name, m in pruned.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    for name in depthwise:
        layer = pruned.get_submodule(name)
        assert layer.groups == layer.in_channels == layer.out_channels
    assert gone["net.features.2.conv.0.0"] == gone["net.features.2.conv.1.0"]


def test_grouped_layers_keep_their_groups_and_concatenated_ones_choose_alone() -> None:
    model = seeded(Joined)
    made = method(round_to=8, cost=Macs()).compress(model, context())
    pruned, gone = made.model, removed(made)
    wide = pruned.get_submodule("wide")
    assert isinstance(wide, nn.Conv2d)
    assert wide.groups == 4
    assert wide.weight.shape == (wide.out_channels, wide.in_channels // 4, 3, 3)
    assert wide.in_channels == pruned.get_submodule("deep").out_channels
    assert pruned.scale.shape == (1, wide.out_channels, 1, 1)  # type: ignore[union-attr]
    for layer, each in (("deep", 8), ("wide", 16)):
        places = gone.get(layer, [])
        assert {index % each for index in places} == {i for i in places if i < each}
        assert len(places) == 4 * len({index % each for index in places})
    assert gone["stem"] == gone["twice"] != gone["other"]


# How much goes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [Channels(), Macs(), Parameters(), Bytes()], ids=lambda cost: type(cost).__name__)
@pytest.mark.parametrize("distribution", [Layerwise(), Global()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("name", ["plain", "resnet", "joined"])
def test_the_removed_cost_is_at_least_the_share_and_no_block_could_have_stayed(
    name: str, distribution: Any, cost: Cost
) -> None:
    model = seeded(NETWORKS[name])
    pruning = method(cost=cost, distribution=distribution, sparsity=0.4, round_to=4, normalization=ByNorm())
    made = pruning.compress(copy.deepcopy(model), context())
    pruned, gone = made.model, removed(made)
    budget = 0.6 * cost(model, IMAGE)
    assert cost(pruned, IMAGE) <= budget * (1 + 1e-9)
    ties = tie_channels(model, IMAGE)
    all_gone = {
        unit
        for side in ties.sides
        for index, unit in enumerate(side.units)
        if side.produces and index in gone.get(side.module, [])
    }
    for group, members in ties.groups.items():
        lost = [unit for unit in members if unit in all_gone]
        count = len(members) - len(lost)
        more = [n for n in _allowed_counts(len(members), list(ties.producers(group).values()), 4) if n > count]
        assert count == len(members) or more
        if more:
            back = copy.deepcopy(model)
            remove_units(back, ties, all_gone - set(lost[: more[0] - count]))
            assert cost(back, IMAGE) > budget


def test_channels_are_halved_exactly_if_rounding_allows() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 144, 10))
    pruned = method(round_to=8).compress(model, context()).model
    assert [pruned.get_parameter(f"{at}.weight").shape[0] for at in (0, 2, 4)] == [16, 16, 10]


@pytest.mark.parametrize(
    ("units", "channels", "round_to", "wanted"),
    [
        (16, [1], 8, [8, 16]),
        (20, [1, 1], 8, [8, 16, 20]),
        (8, [1], 8, [8]),
        (5, [1], 8, [5]),
        (16, [4], 8, [2, 4, 6, 8, 10, 12, 14, 16]),
        (6, [4, 1], 8, [6]),
        (3, [1], 1, [1, 2, 3]),
    ],
)
def test_a_layer_keeps_multiples_and_at_least_one_of_them_or_all(
    units: int, channels: list[int], round_to: int, wanted: list[int]
) -> None:
    assert _allowed_counts(units, channels, round_to) == wanted


def test_a_count_between_two_multiples_goes_to_the_nearest_and_of_two_to_the_larger() -> None:
    assert [_nearest(count, [8, 16, 20]) for count in (0, 11, 12, 17, 18, 19)] == [8, 8, 16, 16, 20, 20]


@pytest.mark.parametrize("name", NETWORKS)
def test_channel_counts_are_multiples_of_eight_and_the_logits_stay(name: str) -> None:
    model = seeded(NETWORKS[name])
    counts = {n: m.weight.shape[0] for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    pruned = method(round_to=8, sparsity=0.3, cost=Parameters()).compress(model, context()).model
    for layer, before in counts.items():
        count = pruned.get_parameter(f"{layer}.weight").shape[0]
        assert count == before or (count % 8 == 0 and count >= 8)
    assert pruned(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize("steps", [2, 3])
def test_several_steps_reach_the_target_of_one_step_and_record_original_indices(steps: int) -> None:
    model = seeded(Plain)
    trained: list[tuple[int, ...]] = []

    chosen = recipe()

    def fine_tune(model: nn.Module, recipe: Recipe, callbacks: Sequence[Any] = (), loss: Any = None) -> None:
        assert recipe is chosen
        trained.append(tuple(model.two.weight.shape[:2]))  # type: ignore[union-attr, arg-type]
        model.train()

    made = method(steps=steps, fine_tune=chosen, round_to=2).compress(copy.deepcopy(model), context(fine_tune))
    pruned, gone = made.model, removed(made)
    at_once = method(round_to=2).compress(copy.deepcopy(model), context()).model
    assert Channels()(pruned, IMAGE) == Channels()(at_once, IMAGE) == 20
    assert len(trained) == steps
    assert trained == sorted(trained, reverse=True)
    assert not pruned.training
    keep = [index for index in range(16) if index not in gone["one"]]
    assert torch.equal(pruned.one.weight, model.one.weight[keep])  # type: ignore[index, union-attr]


# The same again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_as_json_and_rebuilt_it_computes_the_same_to_the_bit(name: str) -> None:
    model = seeded(NETWORKS[name])
    made = method(cost=Parameters(), sparsity=0.3, round_to=4).compress(copy.deepcopy(model), context())
    pruned, structure = made.model, json.loads(json.dumps(made.structure, allow_nan=False))
    assert structure == made.structure
    rebuilt = method().rebuild(seeded(NETWORKS[name]), structure)
    rebuilt.load_state_dict(pruned.state_dict())
    images = torch.randn(5, 3, 16, 16)
    assert torch.equal(rebuilt.eval()(images), pruned(images))
    assert shapes_of(rebuilt) == shapes_of(pruned)
    assert structure["modules"].items() <= shapes_of(rebuilt).items()
    for (_, one), (_, other) in zip(rebuilt.named_modules(), pruned.named_modules(), strict=True):
        assert repr(one) == repr(other)


def test_a_pruned_network_is_pruned_again_and_rebuilt_step_by_step() -> None:
    first, second = method(sparsity=0.3), method(sparsity=0.3, distribution=Global(), cost=Macs())
    once = first.compress(seeded(Plain), context())
    twice = second.compress(copy.deepcopy(once.model), context())
    assert Channels()(once.model, IMAGE) == 28
    assert once.structure is not None
    assert twice.structure is not None
    rebuilt = second.rebuild(first.rebuild(Plain().eval(), once.structure), twice.structure)
    rebuilt.load_state_dict(twice.model.state_dict())
    assert torch.equal(rebuilt(IMAGE), twice.model(IMAGE))


def test_zeros_and_shared_values_of_what_stays_are_untouched_and_the_given_network_too() -> None:
    model = seeded(Plain)
    with torch.no_grad():
        model.two.weight.round_(decimals=1)  # type: ignore[operator, union-attr]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = method(ignored=["two"], sparsity=0.2).compress(model, context()).model
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert set(pruned.two.weight.unique().tolist()) <= set(before["two.weight"].unique().tolist())  # type: ignore[operator, union-attr]


def test_the_same_seed_removes_the_same_and_a_second_call_remembers_nothing() -> None:
    def gone(seed: int) -> dict[str, list[int]]:
        pruning = method(scores=Random(), distribution=Global())
        first = removed(pruning.compress(seeded(Plain), context(seed=seed)))
        assert removed(pruning.compress(seeded(Plain), context(seed=seed))) == first
        return first

    assert gone(0) == gone(0) != gone(1)


def test_taylor_scores_rank_channels_too() -> None:
    model = seeded(Plain)
    gone = removed(method(scores=Taylor(), round_to=8).compress(model, context()))
    scores = Taylor()(model, ["one.weight"], context())["one.weight"].double().flatten(1).sum(1)
    assert gone["one"] == sorted(scores.argsort()[:8].tolist())


def test_batch_norm_is_adapted_if_nothing_is_trained() -> None:
    plain = method().compress(seeded(Plain), context()).model
    adapted = method(batch_norm_batches=2).compress(seeded(Plain), context()).model
    assert not torch.equal(plain.bn.running_mean, adapted.bn.running_mean)  # type: ignore[arg-type, union-attr]
    assert torch.equal(plain.one.weight, adapted.one.weight)  # type: ignore[arg-type, union-attr]
    assert not adapted.training
    assert set(adapted.state_dict()) == set(plain.state_dict())


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 1.5])
def test_a_sparsity_that_leaves_nothing_or_makes_no_sense_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
        method(sparsity=sparsity)


@pytest.mark.parametrize("setting", ["round_to", "steps"])
def test_a_count_of_zero_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1"):
        method(**{setting: 0})


def test_a_sparsity_of_zero_removes_nothing_and_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing would be removed"):
        method(sparsity=0.0).compress(Plain(), context())


def test_a_share_that_rounding_does_not_allow_names_the_most() -> None:
    with pytest.raises(ValueError, match=r"sparsity 0\.9 of the channels cannot be reached: 0\.600 is the most"):
        method(sparsity=0.9, round_to=8).compress(Plain(), context())
    with pytest.raises(ValueError, match=r"0\.000 is the most"):
        method(round_to=32).compress(Plain(), context())


def test_ignored_layers_keep_their_channels_and_an_unknown_name_lists_the_nearest() -> None:
    pruned = method(ignored=["on*"], sparsity=0.3).compress(seeded(Plain), context()).model
    assert pruned.one.weight.shape[0] == 16  # type: ignore[union-attr, index]
    assert pruned.two.weight.shape[:2] == (12, 16)  # type: ignore[union-attr, index]
    with pytest.raises(ValueError, match="no layer is called tow; the nearest are two"):
        method(ignored=["tow"]).compress(Plain(), context())
    with pytest.raises(ValueError, match="ignored leaves no layer whose channels could go"):
        method(ignored=["one", "two"]).compress(Plain(), context())


def test_scores_that_are_no_numbers_are_refused() -> None:
    model = Plain()
    model.two.weight.data[3, 2, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="scores of two are not all finite"):
        method().compress(model, context())


def test_a_parameter_of_two_modules_is_refused() -> None:
    model = Plain()
    model.three = nn.Conv2d(16, 24, 3)
    model.three.weight = model.two.weight
    with pytest.raises(ValueError, match=r"two\.weight and three\.weight are one parameter"):
        method().compress(model, context())


class Transposed(Plain):
    """The second layer's weight is used outside it, too."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(torch.relu(self.bn(self.one(images))), 4)
        hidden = F.conv_transpose2d(torch.relu(self.two(hidden)), self.two.weight, padding=1)
        return self.fc(torch.cat([hidden, hidden[:, :8]], 1).mean((2, 3)).repeat(1, 4))


class Fixed(Plain):
    """A shape is written as a number, which a batch of several images hides."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(torch.relu(self.bn(self.one(images))), 4)
        return self.fc(F.max_pool2d(torch.relu(self.two(hidden)), 2).reshape(-1, 96))


class Shuffled(Plain):
    """The channels change places, which no shape tells."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(torch.relu(self.bn(self.one(images))), 4).flip(1)
        return self.fc(F.max_pool2d(torch.relu(self.two(hidden)), 2).flatten(1))


@pytest.mark.parametrize(
    ("build", "named"),
    [(Transposed, {"one", "two"}), (Fixed, {"two"}), (Shuffled, {"one"})],
    ids=["transposed", "fixed", "shuffled"],
)
def test_layers_whose_channels_cannot_go_are_left_alone_and_named(build: type[nn.Module], named: set[str]) -> None:
    model = seeded(build)
    before = copy.deepcopy(model.state_dict())
    if len(named) == 2:
        with pytest.raises(ValueError, match="cannot be reached: 0.000 is the most.*; one, two must keep all channels"):
            method().compress(model, context())
    else:
        made = method(sparsity=0.2).compress(model, context())
        assert set(made.left_alone) == named
        assert "without some of their channels" in made.left_alone[min(named)]
        assert set(removed(made)) == {"one", "two"} - named
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("build", "sparsity", "gone", "alone"),
    [
        (Recurrent, 0.2, {"one"}, {"two"}),
        (Shuffle, 0.3, {"inner", "last"}, {"stem", "outer"}),
        (Transformer, 0.2, {"patches", "proj", "down", "up"}, {"qkv"}),
        (Timmish, 0.5, {"stem", "middle", "hidden"}, set()),
        (lambda: Timmish(Standardized), 0.2, {"middle", "hidden"}, {"stem"}),
    ],
    ids=["gru", "shuffle", "attention", "subclasses", "standardized"],
)
def test_networks_of_other_people_lose_channels_where_they_can_and_name_the_layers_that_cannot(
    build: Any, sparsity: float, gone: set[str], alone: set[str]
) -> None:
    made = method(sparsity=sparsity).compress(seeded(build), context())
    assert set(removed(made)) == gone
    assert set(made.left_alone) == alone
    assert made.model(torch.cat([IMAGE, IMAGE])).shape == (2, 10)


def test_a_network_none_of_whose_channels_can_go_is_refused_with_the_names() -> None:
    says = r"cannot be reached: 0\.000 is the most.*; streams\.0, streams\.1, streams\.2 must keep all channels"
    with pytest.raises(ValueError, match=says):
        method(sparsity=0.3).compress(seeded(Lists), context())


# In an experiment ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prune_channels"])
def test_an_experiment_records_which_channels_were_removed_and_finds_the_stage_again(name: str, tmp_path: Path) -> None:
    chosen = plan(f"method={name}", "model=small_cnn", "model.blocks=[[16]]", "model.dense=32")
    made = experiment(chosen, tmp_path)
    base, row = made.run()
    record = made.store.find(row.identity)
    assert record is not None
    assert record["structure"]["removed"]
    assert row.parameters is not None
    assert base.parameters is not None
    assert row.parameters < base.parameters
    for path in (tmp_path / "artifacts").iterdir():
        if list(path.glob("*.onnx")):
            (path / "stage.json").unlink()
    assert [found.sha256 for found in experiment(chosen, tmp_path).run()] == [base.sha256, row.sha256]
