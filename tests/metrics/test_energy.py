"""Estimated energy, against sums calculated by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from src.contracts import Graph, GraphNode, GraphTensor, Role
from src.metrics.energy import energy_uj_estimate

# 10 inputs, a layer of 40 weights to 4 outputs: 40 MACs; float32.
FLOAT = Graph(
    (GraphNode(("in", "weight"), ("out",), Role.COMPUTE, 40),),
    {"in": GraphTensor(10, 40), "weight": GraphTensor(40, 160, 40), "out": GraphTensor(4, 16)},
    ("weight",),
    ("in",),
    ("out",),
)


def test_arithmetic_and_both_memories_add_up() -> None:
    picojoules = 40 * (3.7 + 0.9) + 40 * 640 + (10 + 4) * 5
    assert energy_uj_estimate(FLOAT, "float32") == pytest.approx(picojoules / 1e6)


def test_half_precision_costs_a_third_in_arithmetic_and_the_same_in_memory() -> None:
    saved = energy_uj_estimate(FLOAT, "float32") - energy_uj_estimate(FLOAT, "float16")
    assert saved == pytest.approx(40 * (4.6 - 1.5) / 1e6)


def test_integers_of_a_byte_cost_a_quarter_in_memory() -> None:
    quantized = Graph(
        (
            GraphNode(("in", "grid"), ("steps",), Role.QUANTIZE),
            GraphNode(("steps", "grid"), ("seen",), Role.DEQUANTIZE),
            GraphNode(("weight", "grid"), ("shown",), Role.DEQUANTIZE),
            GraphNode(("seen", "shown"), ("out",), Role.COMPUTE, 40),
        ),
        {
            "in": GraphTensor(10, 40),
            "grid": GraphTensor(1, 4, 1),
            "steps": GraphTensor(10, 10),
            "seen": GraphTensor(10, 40),
            "weight": GraphTensor(40, 40, 40),
            "shown": GraphTensor(40, 160),
            "out": GraphTensor(4, 16),
        },
        ("weight",),
        ("in",),
        ("out",),
    )
    picojoules = 40 * (0.2 + 0.1) + 10 * 640 + (10 / 4 + 4) * 5  # the outputs are floats
    assert energy_uj_estimate(quantized, "float32") == pytest.approx(picojoules / 1e6)


def test_a_second_operand_of_an_addition_is_read_and_the_rest_is_fused() -> None:
    added = replace(
        FLOAT,
        nodes=(
            GraphNode(("in", "weight"), ("a",), Role.COMPUTE, 40),
            GraphNode(("a",), ("b",), Role.IN_PLACE),
            GraphNode(("b", "other"), ("out",), Role.IN_PLACE),
        ),
        tensors={**FLOAT.tensors, "a": GraphTensor(4, 16), "b": GraphTensor(4, 16), "other": GraphTensor(4, 16)},
        inputs=("in", "other"),
    )
    more = energy_uj_estimate(added, "float32") - energy_uj_estimate(FLOAT, "float32")
    assert more == pytest.approx(4 * 5 / 1e6)
