"""Finds code of a network that no exported file can reproduce: random numbers, and branches on the values of images."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from src.contracts import InputError

LIBRARY = Path(torch.__file__).parent
READS = ("_local_scalar_dense", "is_nonzero", "equal")  # operators that turn values into a Python number or boolean


class Watched(TorchDispatchMode):
    """Records the lines of Python that draw random numbers, or that read a value that depends on the images.

    Args:
        images: The batch that the network is given.

    Attributes:
        draws, reads: Each line once, as ``net.py:12 (x = F.dropout(x))``.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.draws: dict[str, None] = {}
        self.reads: dict[str, None] = {}
        self._from_images = {id(images): images}  # tensors that depend on the images; kept, so that no id is reused

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.draws[_line()] = None
        if any(id(given) in self._from_images for given in tree_leaves((args, kwargs))):
            if func.overloadpacket.__name__ in READS:
                self.reads[_line()] = None
            self._from_images |= {id(made): made for made in tree_leaves(result) if isinstance(made, Tensor)}
        return result


def _line() -> str:
    """The innermost line of Python that is not torch's, with its text."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or LIBRARY in Path(frame.f_code.co_filename).parents
    ):
        frame = frame.f_back
    name, number = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(name, number).strip()
    return f"{Path(name).name}:{number}" + (f" ({text})" if text else "")


def watched(model: nn.Module, images: Tensor) -> Watched:
    """Run the network on ``images [n, c, h, w]`` and record such lines; random generators are restored."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), Watched(images) as noted:
        model(images)
    return noted


def check_repeats(model: nn.Module, images: Tensor) -> None:
    """Raise InputError, with the line at fault, if two calls of a network in eval mode give different outputs."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second = model(images), model(images)
    if torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True):
        return
    lines = list(watched(model, images).draws)
    where = f": {', '.join(lines)} draws random numbers" if lines else ""
    raise InputError(
        f"model: in eval mode the network gives different outputs for the same images{where}. "
        "Nothing may be random there: F.dropout needs training=self.training, or use nn.Dropout"
    )


def decisions(model: nn.Module, images: Tensor) -> list[str]:
    """The lines of Python that branch on the values of ``images``; a file always takes the branch of its export."""
    return list(watched(model, images).reads)
