"""A method is what its base class says, whoever wrote it; a stored weight gives its values back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from src.contracts import Compressed, Lowered, Method, QuantizingMethod, StoredWeight, as_method


@dataclass(frozen=True, kw_only=True)
class Halve(Method):
    share: float
    makes = ("shared values",)

    def compress(self, model: nn.Module, context: Any) -> Compressed:
        return Compressed(model)


class Bare:
    """A user's method as it could be written before there was ``Compressed``."""

    ends_chain = "nothing can follow"

    def compress(self, model: nn.Module, context: Any) -> nn.Module:
        return model


class Quantizing(Bare):
    def lower(self, model: nn.Module, example_input: torch.Tensor) -> Lowered:
        return Lowered(model, {}, True)

    def stored_weights(self, model: nn.Module) -> dict[str, StoredWeight]:
        return {}


class Structural(Bare):
    def structure(self, model: nn.Module) -> dict[str, Any]:
        return {"width": 3}

    def rebuild(self, model: nn.Module, structure: dict[str, Any]) -> nn.Module:
        return nn.Linear(structure["width"], 1)


def test_a_method_reads_its_defaults() -> None:
    method = Halve(share=0.5)
    assert as_method(method) is method
    assert (method.makes, dict(method.undoes), method.ends_chain) == (("shared values",), {}, None)
    net = nn.Linear(1, 1)
    assert method.rebuild(net, {}) is net


def test_a_bare_module_is_a_result_without_structure() -> None:
    method, net = as_method(Bare()), nn.Linear(1, 1)
    assert method.compress(net, None) == Compressed(net, None)  # type: ignore[arg-type]
    assert (method.makes, method.ends_chain) == ((), "nothing can follow")


def test_an_object_that_says_its_structure_is_rebuilt_by_it() -> None:
    method, net = as_method(Structural()), nn.Linear(1, 1)
    made = method.compress(net, None)  # type: ignore[arg-type]
    assert made == Compressed(net, {"width": 3})
    assert method.rebuild(net, {"width": 3}).in_features == 3


def test_an_object_that_stores_weights_in_fewer_bits_quantizes() -> None:
    method = as_method(Quantizing())
    assert isinstance(method, QuantizingMethod)
    assert method.lower(nn.Linear(1, 1), torch.zeros(1)).integer
    assert not isinstance(as_method(Bare()), QuantizingMethod)


def test_what_cannot_compress_is_no_method() -> None:
    with pytest.raises(TypeError, match=r"a dict, which has no compress\(model, context\)"):
        as_method({})


def test_dequantization_by_hand() -> None:
    integers = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    one = StoredWeight(integers, 8, torch.tensor(0.5), torch.tensor(1, dtype=torch.int32))
    assert one.values().tolist() == [[0.0, 0.5], [1.0, 1.5]]
    each = StoredWeight(integers, 8, torch.tensor([0.5, 2.0]), torch.tensor([0, 3], dtype=torch.int32))
    assert each.values().tolist() == [[0.5, 1.0], [0.0, 2.0]]
    assert each.values().dtype == torch.float32
