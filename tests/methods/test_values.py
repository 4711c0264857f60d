"""A method is a frozen value: nothing that it finds out stays on it; a user's object of any kind can be one."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from src.command.composition import composed
from src.command.exits import CONF
from src.contracts import Compressed, Context, DataSplits, Method, QuantizingMethod, as_method
from src.methods.chain import Chain
from src.models.small_cnn import SmallCNN
from tests.methods.examples import Net, context, prune, short_training
from tests.plans import plan

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml") if path.stem != "chain")
STEPS = [name for name in METHODS if not composed([f"method={name}"])[0]["method"]["_target_"].endswith(".Chain")]


def methods(name: str) -> list[Method]:
    """The methods of a file in conf/method: one, or those of a chain."""
    return [step.value for step in plan(f"method={name}").steps.values()]


def network() -> nn.Module:
    torch.manual_seed(0)
    net = SmallCNN(
        blocks=[[16], [32]],
        dense=32,
        padding=1,
        batch_norm=True,
        dropout=0.0,
        num_classes=10,
        in_channels=3,
        image_size=(16, 16),
    )
    return net.eval()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_frozen_dataclass_of_its_settings(name: str) -> None:
    for method in methods(name):
        assert isinstance(method, Method)
        assert dataclasses.is_dataclass(method)
        settings = {field.name for field in dataclasses.fields(method)}
        assert settings == set(vars(method))
        assert not settings & {"makes", "undoes", "ends_chain"}
        for setting in settings:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(method, setting, None)
        with pytest.raises(TypeError):
            type(method)(*vars(method).values())  # keywords only
        assert typing.get_type_hints(type(method).__init__).keys() - {"return"} == settings  # the command checks these
        assert dataclasses.replace(method) == method


@pytest.mark.parametrize("name", STEPS)
def test_compressing_twice_gives_the_same_and_the_record_rebuilds_it(name: str, splits: DataSplits) -> None:
    (method,) = methods(name)
    settings = dict(vars(method))
    given = dataclasses.replace(context(splits), fine_tune=short_training(splits))
    made, again = (method.compress(network(), given) for _ in range(2))
    assert vars(method) == settings
    assert made.structure == again.structure
    state = made.model.state_dict()
    assert state.keys() == again.model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in again.model.state_dict().items())

    untouched = network()
    record = json.loads(json.dumps(made.structure, allow_nan=False))
    rebuilt = untouched if record is None else method.rebuild(untouched, record)
    rebuilt.load_state_dict(state)
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images), made.model.eval()(images))
    assert vars(method) == settings
    if isinstance(method, QuantizingMethod):
        stored, found = method.stored_weights(made.model), method.stored_weights(rebuilt)
        assert stored.keys() == found.keys() != set()
        assert all(torch.equal(stored[key].values(), found[key].values()) for key in stored)


# Objects of users ---------------------------------------------------------------------------------


class Halves:
    """A user's method that knows nothing of this project's base class: it returns a bare network."""

    makes = ("zeros",)

    def compress(self, model: Any, context: Context) -> nn.Module:
        with torch.no_grad():
            model.fc.weight[::2] = 0
        return model


class Drops:
    """A user's method as it was written before ``Compressed`` came: it remembers, and is asked for the structure."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def compress(self, model: Any, context: Context) -> nn.Module:
        self.dropped = ["bn"]
        model.bn = nn.Identity()
        return model

    def structure(self, model: nn.Module) -> dict[str, Any]:
        return {"dropped": self.dropped}

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        for name in structure["dropped"]:
            setattr(model, name, nn.Identity())
        return model


def test_a_users_method_may_return_a_bare_network(splits: DataSplits) -> None:
    method = as_method(Halves())
    assert (method.makes, method.undoes, method.ends_chain) == (("zeros",), {}, None)
    made = method.compress(Net().eval(), context(splits))
    assert made.structure is None
    assert not made.model.get_parameter("fc.weight")[::2].any()


def test_a_users_method_may_still_say_its_structure_by_itself(splits: DataSplits) -> None:
    method = as_method(Drops())
    made = method.compress(Net().eval(), context(splits))
    assert made.structure == {"dropped": ["bn"]}
    rebuilt = as_method(Drops()).rebuild(Net().eval(), json.loads(json.dumps(made.structure)))
    rebuilt.load_state_dict(made.model.state_dict())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(rebuilt(images), made.model(images))


def test_users_methods_are_steps_of_a_chain(splits: DataSplits) -> None:
    chain = Chain(name="mine", steps={"halves": Halves(), "prune": prune(), "drops": Drops()})  # type: ignore[dict-item]
    assert all(isinstance(step, Method) for step in chain.steps.values())
    model: nn.Module = Net().eval()
    for step in chain.steps.values():
        model = step.compress(copy.deepcopy(model), context(splits)).model
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    assert sum(int((weight == 0).sum()) for weight in weights) == round(0.7 * 20_696)
    assert isinstance(model.get_submodule("bn"), nn.Identity)


def test_an_object_without_compress_is_no_method() -> None:
    with pytest.raises(TypeError, match=r"^a Context, which has no compress\(model, context\)$"):
        as_method(Context([], None, torch.zeros(1), 0, None))  # type: ignore[arg-type]
    assert as_method(method := prune()) is method


def test_a_subclass_needs_only_compress_and_may_return_a_bare_network(splits: DataSplits) -> None:
    class Nothing(Method):
        def compress(self, model: nn.Module, context: Context) -> nn.Module:
            return model

    method, net = Nothing(), Net()
    assert as_method(method) is method
    assert Compressed.of(method.compress(net, context(splits))) == Compressed(net, None)
    assert method.rebuild(net, {}) is net
    assert (method.makes, method.undoes, method.ends_chain) == ((), {}, None)
