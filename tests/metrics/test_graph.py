"""Counting in exported graphs, on graphs made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from src.contracts import Graph, GraphNode, GraphTensor, Role
from src.metrics.graph import (
    float_operations,
    integer_share,
    macs,
    nonzero_parameters,
    parameters,
    peak_activation_bytes,
)


def graph(
    sizes: Mapping[str, int],
    *nodes: tuple[str, Role, Sequence[str], str],
    weights: Mapping[str, tuple[int, int]] | None = None,
    outputs: Sequence[str] = ("out",),
) -> Graph:
    """A float32 graph whose only input is ``in``.

    Args:
        sizes: Elements of each activation.
        nodes: ``(what it is, role, inputs, output)`` in order; the first is for people.
        weights: ``(elements, of them not zero)`` of each stored tensor.
    """
    weights = weights or {}
    tensors = {name: GraphTensor(elements, 4 * elements) for name, elements in sizes.items()}
    tensors |= {name: GraphTensor(all_, 4 * all_, nonzero) for name, (all_, nonzero) in weights.items()}
    return Graph(
        tuple(GraphNode(tuple(inputs), (output,), role) for _, role, inputs, output in nodes),
        tensors,
        tuple(weights),
        ("in",),
        tuple(outputs),
    )


# Peak activations ---------------------------------------------------------------------------------


def test_two_neighbours_of_a_chain_live_together() -> None:
    chain = graph(
        {"in": 10, "a": 100, "b": 30, "out": 2},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("conv", Role.COMPUTE, ["a"], "b"),
        ("conv", Role.COMPUTE, ["b"], "out"),
    )
    # at the nodes: 10+100, 100+30, 30+2 elements of 4 bytes
    assert peak_activation_bytes(chain) == 4 * 130


def test_the_input_alone_can_be_the_peak() -> None:
    shrinking = graph({"in": 1000, "out": 1}, ("pool", Role.POOLING, ["in"], "out"))
    assert peak_activation_bytes(shrinking) == 4 * 1001


def test_a_residual_keeps_its_tensor_alive_until_it_is_added() -> None:
    block = graph(
        {"in": 10, "x": 100, "a": 100, "b": 100, "out": 100},
        ("conv", Role.COMPUTE, ["in"], "x"),
        ("conv", Role.COMPUTE, ["x"], "a"),
        ("conv", Role.COMPUTE, ["a"], "b"),  # x, a and b live
        ("add", Role.IN_PLACE, ["b", "x"], "out"),  # b is overwritten
    )
    without = graph(
        {"in": 10, "x": 100, "a": 100, "b": 100, "out": 100},
        ("conv", Role.COMPUTE, ["in"], "x"),
        ("conv", Role.COMPUTE, ["x"], "a"),
        ("conv", Role.COMPUTE, ["a"], "b"),
        ("relu", Role.IN_PLACE, ["b"], "out"),
    )
    assert peak_activation_bytes(block) == 4 * 300
    assert peak_activation_bytes(without) == 4 * 200


def test_the_order_of_two_addends_makes_no_difference() -> None:
    """``x + f(x)``: f(x) has no other reader and is overwritten, whichever operand it is."""

    def added(*addends: str) -> Graph:
        return graph(
            {"in": 10, "x": 100, "a": 100, "s": 100, "out": 100},
            ("conv", Role.COMPUTE, ["in"], "x"),
            ("conv", Role.COMPUTE, ["x"], "a"),
            ("add", Role.IN_PLACE, addends, "s"),
            ("conv", Role.COMPUTE, ["s"], "out"),
        )

    assert peak_activation_bytes(added("a", "x")) == 4 * 200
    assert peak_activation_bytes(added("x", "a")) == 4 * 200


def test_an_activation_overwrites_its_input() -> None:
    rectified = graph(
        {"in": 10, "a": 100, "r": 100, "out": 10},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("relu", Role.IN_PLACE, ["a"], "r"),
        ("conv", Role.COMPUTE, ["r"], "out"),
    )
    assert peak_activation_bytes(rectified) == 4 * 110


def test_an_activation_whose_input_is_read_elsewhere_has_memory_of_its_own() -> None:
    forked = graph(
        {"in": 10, "a": 100, "r": 100, "out": 100},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("relu", Role.IN_PLACE, ["a"], "r"),
        ("concat", Role.COMPUTE, ["a", "r"], "out"),
    )
    assert peak_activation_bytes(forked) == 4 * 300


def test_an_activation_behind_a_reshape_does_not_overwrite_what_another_reads() -> None:
    """The reshape is ``a``'s memory, and the concatenation still reads ``a``."""
    aliased = graph(
        {"in": 10, "a": 100, "flat": 100, "r": 100, "out": 10},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("flatten", Role.MOVING, ["a"], "flat"),
        ("relu", Role.IN_PLACE, ["flat"], "r"),
        ("dense", Role.COMPUTE, ["r", "a"], "out"),
    )
    assert peak_activation_bytes(aliased) == 4 * 210


def test_a_small_factor_is_not_overwritten_by_a_large_product() -> None:
    """``scale * x`` as squeeze-and-excitation writes it: a product of 100 does not fit where 4 lie."""
    excited = graph(
        {"in": 10, "x": 100, "scale": 4, "product": 100, "out": 100},
        ("conv", Role.COMPUTE, ["in"], "x"),
        ("pool", Role.COMPUTE, ["x"], "scale"),
        ("mul", Role.IN_PLACE, ["scale", "x"], "product"),
        ("conv", Role.COMPUTE, ["product"], "out"),
    )
    # the product overwrites x, whose other reader is done, and lives on beside out
    assert peak_activation_bytes(excited) == 4 * 200


def test_a_reshape_has_no_memory_of_its_own() -> None:
    flattened = graph(
        {"in": 10, "a": 100, "flat": 100, "out": 10},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("flatten", Role.MOVING, ["a"], "flat"),
        ("dense", Role.COMPUTE, ["flat"], "out"),
    )
    assert peak_activation_bytes(flattened) == 4 * 110


def test_a_tensor_lives_as_long_as_its_reshape_is_read() -> None:
    late = graph(
        {"in": 10, "a": 100, "flat": 100, "b": 50, "c": 50, "out": 10},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("flatten", Role.MOVING, ["a"], "flat"),
        ("conv", Role.COMPUTE, ["in"], "b"),
        ("conv", Role.COMPUTE, ["b"], "c"),
        ("dense", Role.COMPUTE, ["flat", "c"], "out"),
    )
    assert peak_activation_bytes(late) == 4 * (100 + 50 + 50)  # in died at the node that made b: 10+100+50


def test_an_output_lives_to_the_end() -> None:
    two = graph(
        {"in": 10, "early": 100, "a": 10, "b": 10, "out": 10},
        ("conv", Role.COMPUTE, ["in"], "early"),
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("conv", Role.COMPUTE, ["a"], "b"),
        ("conv", Role.COMPUTE, ["b"], "out"),
        outputs=("out", "early"),
    )
    assert peak_activation_bytes(two) == 4 * 120


def test_what_nobody_reads_needs_no_memory() -> None:
    pooled = Graph(
        (
            GraphNode(("in",), ("a", "indices"), Role.POOLING),
            GraphNode(("a",), ("out",), Role.COMPUTE),
        ),
        {name: GraphTensor(size, 4 * size) for name, size in {"in": 10, "a": 5, "indices": 500, "out": 1}.items()},
        (),
        ("in",),
        ("out",),
    )
    assert peak_activation_bytes(pooled) == 4 * 15


def test_constants_and_what_is_made_of_them_are_no_activations() -> None:
    weighted = graph(
        {"in": 10, "converted": 5000, "out": 20},
        ("convert", Role.COMPUTE, ["weight"], "converted"),
        ("conv", Role.COMPUTE, ["in", "converted"], "out"),
        weights={"weight": (5000, 5000)},
    )
    assert peak_activation_bytes(weighted) == 4 * 30


def test_an_optional_input_without_a_name_is_none() -> None:
    clipped = graph(
        {"in": 10, "a": 20, "out": 20}, ("conv", Role.COMPUTE, ["in"], "a"), ("clip", Role.IN_PLACE, ["a", ""], "out")
    )
    assert peak_activation_bytes(clipped) == 4 * 30


def test_what_only_a_quantization_reads_has_one_byte_an_element() -> None:
    quantized = graph(
        {"in": 10, "a": 100, "r": 100, "q": 100, "d": 100, "out": 10},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("relu", Role.IN_PLACE, ["a"], "r"),
        ("quantize", Role.QUANTIZE, ["r", "scale"], "q"),
        ("dequantize", Role.DEQUANTIZE, ["q", "scale"], "d"),
        ("conv", Role.COMPUTE, ["d"], "out"),
        weights={"scale": (1, 1)},
    )
    # the convolution's 100 results are written as bytes: 4*10 + 100, then 100 + 4*10
    assert peak_activation_bytes(quantized) == 140


def test_floats_that_someone_reads_as_floats_stay_floats() -> None:
    mixed = graph(
        {"in": 10, "a": 100, "q": 100, "d": 100, "b": 100, "out": 100},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("quantize", Role.QUANTIZE, ["a"], "q"),
        ("dequantize", Role.DEQUANTIZE, ["q"], "d"),
        ("conv", Role.COMPUTE, ["d"], "b"),
        ("concat", Role.COMPUTE, ["a", "b"], "out"),
    )
    assert peak_activation_bytes(mixed) == 4 * 300


def test_floats_that_a_convolution_reads_before_the_quantization_stay_floats() -> None:
    late = graph(
        {"in": 10, "a": 100, "b": 50, "q": 50, "d": 50, "out": 10},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("conv", Role.COMPUTE, ["a"], "b"),
        ("quantize", Role.QUANTIZE, ["b"], "q"),
        ("dequantize", Role.DEQUANTIZE, ["q"], "d"),
        ("conv", Role.COMPUTE, ["d"], "out"),
    )
    assert peak_activation_bytes(late) == 4 * 100 + 50


def test_pooling_of_integers_gives_integers() -> None:
    pooled = graph(
        {"in": 1, "a": 400, "q": 400, "d": 400, "p": 100, "flat": 100, "out": 1},
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("quantize", Role.QUANTIZE, ["a"], "q"),
        ("dequantize", Role.DEQUANTIZE, ["q"], "d"),
        ("max pool", Role.POOLING, ["d"], "p"),
        ("flatten", Role.MOVING, ["p"], "flat"),
        ("dense", Role.COMPUTE, ["flat"], "out"),
    )
    assert peak_activation_bytes(pooled) == 500


def test_pooling_of_floats_gives_floats() -> None:
    pooled = graph(
        {"in": 1, "a": 400, "out": 100}, ("conv", Role.COMPUTE, ["in"], "a"), ("max pool", Role.POOLING, ["a"], "out")
    )
    assert peak_activation_bytes(pooled) == 4 * 500


def test_a_quantized_input_image_still_comes_as_floats() -> None:
    image = graph(
        {"in": 100, "q": 100, "d": 100, "out": 10},
        ("quantize", Role.QUANTIZE, ["in"], "q"),
        ("dequantize", Role.DEQUANTIZE, ["q"], "d"),
        ("conv", Role.COMPUTE, ["d"], "out"),
    )
    assert peak_activation_bytes(image) == 4 * 110


def test_a_quantized_network_needs_a_quarter_of_a_float_one() -> None:
    sizes = {"in": 0, "a": 100, "qa": 100, "da": 100, "b": 100, "qb": 100, "db": 100, "out": 0}
    quantized = graph(
        sizes,
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("quantize", Role.QUANTIZE, ["a"], "qa"),
        ("dequantize", Role.DEQUANTIZE, ["qa"], "da"),
        ("conv", Role.COMPUTE, ["da"], "b"),
        ("quantize", Role.QUANTIZE, ["b"], "qb"),
        ("dequantize", Role.DEQUANTIZE, ["qb"], "db"),
        ("conv", Role.COMPUTE, ["db"], "out"),
    )
    plain = graph(
        sizes,
        ("conv", Role.COMPUTE, ["in"], "a"),
        ("conv", Role.COMPUTE, ["a"], "b"),
        ("conv", Role.COMPUTE, ["b"], "out"),
    )
    assert (peak_activation_bytes(quantized), peak_activation_bytes(plain)) == (200, 800)


# Parameters and MACs ------------------------------------------------------------------------------


@pytest.fixture
def weighted() -> Graph:
    """Two weights, and a stored scale, which does not count as one."""
    plain = graph(
        {"in": 1, "out": 1},
        ("conv", Role.COMPUTE, ["in", "kernel", "bias"], "out"),
        weights={"kernel": (36, 9), "bias": (4, 0), "scale": (4, 4)},
    )
    return replace(plain, weights=("kernel", "bias"))


def test_parameters_are_the_elements_of_all_weights(weighted: Graph) -> None:
    assert parameters(weighted) == 40


def test_nonzero_parameters_leave_out_zeros(weighted: Graph) -> None:
    assert nonzero_parameters(weighted) == 9


def test_macs_are_added_over_all_nodes(weighted: Graph) -> None:
    nodes = tuple(GraphNode(("in",), ("out",), Role.COMPUTE, count) for count in (1000, 0, 234))
    assert macs(replace(weighted, nodes=nodes)) == 1234


# Integers -----------------------------------------------------------------------------------------


def test_macs_count_as_integers_if_all_operands_are_and_the_kernel_is() -> None:
    quantized = graph(
        {"in": 10, "q": 10, "a": 10, "b": 10, "c": 10, "out": 10},
        ("quantize", Role.QUANTIZE, ["in"], "q"),
        ("dequantize", Role.DEQUANTIZE, ["q"], "a"),
        ("conv", Role.COMPUTE, ["a", "w8"], "b"),
        ("conv", Role.COMPUTE, ["a", "w32"], "c"),
        ("conv", Role.COMPUTE, ["a", "w8"], "out"),
        weights={"w8": (4, 4), "w32": (4, 4)},
    )
    tensors = {**quantized.tensors, "w8": GraphTensor(4, 4, 4)}
    nodes = [*quantized.nodes[:2]]
    nodes += [replace(node, macs=100 * at, name=f"conv{at}") for at, node in enumerate(quantized.nodes[2:], 1)]
    assert integer_share(replace(quantized, tensors=tensors, nodes=tuple(nodes))) == pytest.approx(400 / 600)
    nodes[-1] = replace(nodes[-1], float_kernel=True)
    in_floats = replace(quantized, tensors=tensors, nodes=tuple(nodes))
    assert integer_share(in_floats) == pytest.approx(100 / 600)
    assert float_operations(in_floats) == ["conv3", "conv2"]
