"""A fault of litert-torch's layout pass, mended for the time of a conversion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def own_dequantizations() -> Iterator[None]:
    """Let the pass that changes layouts give each reader of a dequantized tensor a dequantization of its own.

    litert-torch 0.10 overwrites what it knows of a dequantization, its shape included, when it transposes for one of
    its readers; with the next reader it fails ("Attempting to convert non-NHWC compatible node to NHWC"), as in
    squeeze-and-excitation.
    """
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import pass_body, utils

    changed = pass_body.OptimizeLayoutTransposesPass
    original = changed.insert_layout_transpose

    def insert(self: Any, graph: Any, source: Any, target: Any, *settings: Any) -> None:
        if utils.is_dq_node(source) and len(source.users) > 1:
            with graph.inserting_before(target):
                own = graph.node_copy(source)
            target.replace_input_with(source, own)
            source = own
        original(self, graph, source, target, *settings)

    changed.insert_layout_transpose = insert
    try:
        yield
    finally:
        changed.insert_layout_transpose = original
