"""Networks exported by ``torch.export`` with a variable batch size."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)


def program_of(model: nn.Module, example_input: Tensor) -> Any:
    """Export ``model`` as a program that takes any number of images like ``example_input``, ``[1, c, h, w]``.

    A network that takes the batch size as a number (``len(images)``) is read again from its Python code.

    Raises:
        Exception: torch cannot export the network; of many types.
    """
    batch = torch.cat([example_input, example_input])
    free = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(model, (batch,), dynamic_shapes=free)
        except Exception:
            try:
                return torch.export.export(model, (batch,), dynamic_shapes=free, strict=True)
            except Exception:
                log.info("the network's Python code cannot be read", exc_info=True)
            raise


def traceable(model: nn.Module, example_input: Tensor) -> nn.Module | None:
    """Rewrite ``model`` so that the tracer of the ONNX exporter keeps the batch size variable; None if that fails."""
    try:
        module: nn.Module = program_of(model, example_input).module(check_guards=False)
    except Exception:  # torch raises many types of its own
        log.info("the network cannot be rewritten for a variable batch size", exc_info=True)
        return None
    graph: Any = module.graph
    for node in graph.nodes:  # the tracer records numbers of torch.ops as constants
        numbers = [given for given in node.all_input_nodes if isinstance(given.meta.get("val"), torch.SymInt)]
        if node.target == torch.ops.aten.sym_size.int:
            node.target = _size
        elif numbers and isinstance(node.target, torch._ops.OpOverload):
            name = node.target.overloadpacket.__name__
            node.target = getattr(torch.Tensor if isinstance(node.args[0], torch.fx.Node) else torch, name)
    return torch.fx.GraphModule(module, graph)  # which has eval(), unlike an exported program's


def _size(tensor: Tensor, dim: int) -> int:
    return tensor.shape[dim]
