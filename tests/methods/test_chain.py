"""Chains: order, names, and what cannot follow what."""

from __future__ import annotations

import pytest

from src.methods.chain import Chain, undone
from src.methods.low_rank import LowRank
from src.methods.quantize_int8 import QuantizeInt8
from src.methods.quantize_uniform import QuantizeUniform
from src.primitives.quantizers import Symmetric
from src.primitives.ranks import Fixed
from tests.methods.examples import prune


def test_steps_keep_their_order() -> None:
    chain = Chain(
        name="both",
        steps={
            "prune": prune(),
            "quantize": QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None, reduce_range=False),
        },
    )
    assert list(chain.steps) == ["prune", "quantize"]


def test_two_steps_that_end_a_chain_are_refused() -> None:
    quantize = QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None, reduce_range=False)
    with pytest.raises(ValueError, match=r"Only one of first, second can be used, as the last step"):
        Chain(name="wrong", steps={"first": quantize, "second": quantize})


def test_a_step_after_integer_quantization_is_refused_with_an_order_that_works() -> None:
    steps = {
        "quantize": QuantizeInt8(bias_correction=True, ignored=[], fine_tune=None, reduce_range=False),
        "prune": prune(),
    }
    with pytest.raises(ValueError, match=r"steps\.prune cannot follow steps\.quantize.*works: prune, quantize"):
        Chain(name="wrong", steps=steps)


def test_a_step_must_be_a_method_and_no_chain() -> None:
    with pytest.raises(ValueError, match=r"steps\.both is itself a chain \(prune\)"):
        Chain(name="outer", steps={"both": Chain(name="inner", steps={"prune": prune()})})
    with pytest.raises(ValueError, match=r"^steps\.odd is a int, which has no compress\(model, context\)$"):
        Chain(name="outer", steps={"odd": 3})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["a/b", "baseline", "two words"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name must"):
        Chain(name=name, steps={"prune": prune()})


def test_a_chain_must_have_a_name() -> None:
    with pytest.raises(ValueError, match="name is missing"):
        Chain(name=None, steps={})


def test_a_step_that_cannot_keep_what_an_earlier_step_makes_is_reported() -> None:
    factorise = LowRank(rank=Fixed(rank=2), ignored=[], fine_tune=None)
    one_bit = QuantizeUniform(
        bits=1, activation_bits=None, grid=Symmetric(per_channel=True, candidates=1), ignored=[], fine_tune=None
    )
    assert undone({"prune": prune(), "factorise": factorise}) == [
        "factorise undoes the zeros of prune: the factors of a sparse matrix are dense"
    ]
    assert undone({"prune": prune(), "bits": one_bit}) == [
        "bits undoes the zeros of prune: one symmetric bit has no zero"
    ]
    assert undone({"factorise": factorise, "prune": prune(), "again": prune()}) == []
