"""Weights on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.contracts import InputError
from src.models.build import Network
from src.models.resnet import CifarResNet
from src.models.weights import load_weights, read_weights, save_weights
from tests.odd_networks import AsksForItsVersion


class Tied(nn.Module):
    """Encodes and decodes with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.decode(self.encode(x)))


def net(seed: int, last: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, last))


def bits(model: nn.Module) -> dict[str, Any]:
    """The bits of every value as integers, so that NaN equals NaN and -0 differs from 0."""
    whole = {4: torch.int32, 8: torch.int64}
    return {
        name: value.flatten().view(whole[value.element_size()]).tolist() for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("make", [lambda seed: net(seed), lambda _: CifarResNet(depth=8, num_classes=3, in_channels=1)])
def test_weights_come_back_to_the_bit(tmp_path: Path, make: Any) -> None:
    model, other = make(0), make(1)
    model[1].running_mean.normal_() if isinstance(model, nn.Sequential) else model.bn.running_mean.normal_()
    assert bits(other) != bits(model)
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert bits(other) == bits(model)


def test_a_network_that_asks_for_its_version_loads_its_weights(tmp_path: Path) -> None:
    model, other = AsksForItsVersion(3), AsksForItsVersion(3)
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert bits(other) == bits(model)


def test_odd_values_come_back_to_the_bit(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    model.weight.data = torch.tensor([[-0.0, 1e-42, float("inf")], [float("nan"), 1 / 3, -3.4e38]])
    save_weights(model, tmp_path / "w.safetensors")
    other.load_state_dict(read_weights(tmp_path / "w.safetensors"))
    assert bits(other) == bits(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_refused_with_its_tensor_and_file(tmp_path: Path, value: float) -> None:
    model, other = net(0), net(1)
    model[3].weight.data[1, 2] = value
    before = bits(other)
    save_weights(model, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"w\.safetensors holds NaN or infinite values in 3\.weight$"):
        load_weights(other, tmp_path / "w.safetensors")
    assert bits(other) == before


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("3.weight", lambda value: value + 3e38, "values so large that their squares overflow float32 in 3.weight"),
        ("3.weight", lambda value: value - 3e38, "values so large that their squares overflow float32 in 3.weight"),
        (
            "3.bias",
            lambda value: value.double() + 1e300,
            "values so large that their squares overflow float32 in 3.bias",
        ),
        ("1.running_var", lambda value: value - 2, "negative variances in 1.running_var"),
        ("0.weight", lambda value: value.to(torch.complex64), "complex numbers in 0.weight"),
        ("0.weight", lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn values, .* in 0.weight"),
        ("0.weight", lambda value: value.to(torch.float8_e5m2), "float8_e5m2 values, .* in 0.weight"),
        ("0.weight", lambda value: value.to(torch.int8), "int8 values in place of floats, .* in 0.weight"),
        ("3.bias", lambda value: value > 0, "bool values in place of floats, .* in 3.bias"),
        ("1.num_batches_tracked", lambda value: value - 5, "negative counts in 1.num_batches_tracked"),
        ("1.num_batches_tracked", lambda value: value - 5.0, "negative counts in 1.num_batches_tracked"),
    ],
)
def test_values_that_no_network_computes_with_are_refused_with_their_tensor(
    tmp_path: Path, name: str, change: Any, reason: str
) -> None:
    state, other = net(0).state_dict(), net(1)
    before = bits(other)
    state[name] = change(state[name])
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=f"w.pt holds {reason}$"):
        load_weights(other, tmp_path / "w.pt")
    assert bits(other) == before


def test_large_weights_are_no_wrong_ones(tmp_path: Path) -> None:
    model, other = net(0), net(1)
    model[3].weight.data[0, 0], model[1].running_var[:] = 1e18, torch.tensor([0.0, 1e9])
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert bits(other) == bits(model)


def test_counters_and_layouts_come_back(tmp_path: Path) -> None:
    model, other = net(0).to(memory_format=torch.channels_last), net(1)
    model[1].num_batches_tracked.fill_(7)
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert int(other[1].num_batches_tracked) == 7
    assert torch.equal(other[0].weight, model[0].weight)


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    save_weights(model, tmp_path / "w.safetensors")
    assert len({"encode.weight", "decode.weight"} & read_weights(tmp_path / "w.safetensors").keys()) == 1
    load_weights(other, tmp_path / "w.safetensors")
    assert bits(other) == bits(model)
    assert other.decode.weight is other.encode.weight


def test_a_file_that_holds_a_tied_weight_under_both_names_loads(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert bits(other) == bits(model)


def test_equal_weights_that_are_not_tied_are_both_written(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].load_state_dict(model[0].state_dict())
    save_weights(model, tmp_path / "w.safetensors")
    assert sorted(read_weights(tmp_path / "w.safetensors")) == ["0.bias", "0.weight", "1.bias", "1.weight"]


def test_saving_replaces_the_file_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    save_weights(net(0), tmp_path / "w.safetensors")
    save_weights(model := net(1), tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    load_weights(other := net(2), tmp_path / "w.safetensors")
    assert bits(other) == bits(model)


def test_saving_takes_the_weights_of_now(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    save_weights(model, tmp_path / "w.safetensors")
    saved = read_weights(tmp_path / "w.safetensors")["weight"].clone()
    nn.init.zeros_(model.weight)
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["weight"], saved)
    assert bool(saved.any())


# Files of others ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_a_state_dict_that_torch_saved_loads(tmp_path: Path, key: str | None) -> None:
    model, other = net(0), net(1)
    state = model.state_dict()
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "w.pt")
    load_weights(other, tmp_path / "w.pt")
    assert bits(other) == bits(model)


def test_the_weights_of_a_sequential_load_into_the_wrapped_one(tmp_path: Path) -> None:
    model, wrapped = net(0), Network(net(1))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    load_weights(wrapped, tmp_path / "w.pt")
    assert bits(wrapped.net) == bits(model)


def test_the_weights_of_a_wrapped_sequential_load_into_another(tmp_path: Path) -> None:
    model, other = Network(net(0)), Network(net(1))
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert bits(other) == bits(model)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, I am no weights"], ids=["empty", "text"])
def test_a_file_of_something_else_is_named(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / f"w.{ending}").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_weights(net(0), tmp_path / f"w.{ending}")
    assert str(tmp_path / f"w.{ending}") in str(caught.value)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_truncated_file_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"w.{ending}"
    save_weights(net(0), path) if ending == "safetensors" else torch.save(net(0).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(net(0), path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)], ids=["list", "numbers", "tensor"])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        load_weights(net(0), tmp_path / "w.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file") as caught:
        read_weights(tmp_path / "w.pt")
    assert str(tmp_path / "w.pt") in str(caught.value)


# Misfits ------------------------------------------------------------------------------------------


def misfit(tmp_path: Path, state: dict[str, Tensor], model: nn.Module) -> str:
    """Load ``state``, which must be refused and leave the model as it was; return the message."""
    before = bits(model)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match="does not fit the model") as caught:
        load_weights(model, tmp_path / "w.pt")
    assert bits(model) == before
    return str(caught.value)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    state = net(0).state_dict()
    del state["3.bias"]
    message = misfit(tmp_path, state, net(1))
    assert "3.bias is missing" in message
    assert "; 8 of 9 tensors fit: give the settings of the network that it was saved from" in message


def test_an_unknown_weight_is_named(tmp_path: Path) -> None:
    state = {**net(0).state_dict(), "4.weight": torch.zeros(2)}
    assert "4.weight is unknown to the model" in misfit(tmp_path, state, net(1))


def test_a_weight_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    assert "3.weight is (5, 8), not (3, 8)" in misfit(tmp_path, net(0, last=5).state_dict(), net(1))


def test_the_first_three_misfits_are_named_and_the_others_counted(tmp_path: Path) -> None:
    state = {f"{name}_old": value for name, value in net(0).state_dict().items()}
    message = misfit(tmp_path, state, net(1))
    assert message.count(";") == 3
    assert message.endswith("; 0 of 9 tensors fit: it is the file of another network")
    assert f"and {2 * len(state) - 1 - 3} more" in message  # the counter of batches is not needed


def test_a_missing_tied_weight_is_named(tmp_path: Path) -> None:
    state = Tied().state_dict()
    del state["encode.weight"], state["decode.weight"]
    assert "weight is missing" in misfit(tmp_path, state, Tied())
