"""Plain weights from the pairs of tensors by which a checkpoint holds normalized or masked ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from src.contracts import InputError
from src.models.checkpoints import Found


def _scaled(magnitude: Tensor, direction: Tensor) -> Tensor:
    """Weight normalization (Salimans and Kingma 2016): ``direction`` with the norm ``magnitude``.

    The norm is that over the dimensions in which ``magnitude`` has one element; a scalar is the norm of the whole.
    """
    dims = [at for at in range(direction.dim()) if magnitude.dim() == 0 or magnitude.shape[at] == 1]
    return direction * (magnitude / torch.linalg.vector_norm(direction, dim=dims, keepdim=True))


# The first tensor's name, the second's, and how both make the weight: torch's two forms of weight normalization, and
# the masks of torch.nn.utils.prune.
FORMS = (
    (r"(.+)\.parametrizations\.(\w+)\.original0", r"\1.parametrizations.\2.original1", _scaled),
    (r"(.+)\.(\w+)_g", r"\1.\2_v", _scaled),
    (r"(.+)\.(\w+)_orig", r"\1.\2_mask", torch.mul),
)


def with_plain_weights(tensors: Mapping[str, Found], own: Iterable[str]) -> tuple[dict[str, Found], int]:
    """Compute each weight that a checkpoint holds as a pair of tensors; a pair that the network has stays.

    Args:
        tensors: The tensors of the file by their full names.
        own: Names of the network's tensors.

    Returns:
        The tensors with plain weights, and the number of weights that were computed.

    Raises:
        InputError: The shapes of a pair do not go together.
    """
    plain, made = dict(tensors), 0
    for name, found in tensors.items():
        for form, second, compute in FORMS:
            match = re.fullmatch(form, name)
            partner = match.expand(second) if match else ""
            if match is None or partner not in tensors or any(name.endswith(each) for each in own):
                continue
            try:
                value = compute(found.value.float(), tensors[partner].value.float())
            except (RuntimeError, IndexError):
                raise InputError(f"model.weights: the shapes of {name} and {partner} do not go together") from None
            del plain[name], plain[partner]
            plain[f"{match[1]}.{match[2]}"] = replace(found, value=value)
            made += 1
    return plain, made
