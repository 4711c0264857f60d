"""Low-rank factorisation: each layer becomes two thin ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from src.contracts import Compressed, Context, Method, NoEffectError, Recipe
from src.primitives.folding import replace_module
from src.primitives.layers import layer_name, per_layer, refuse_shared, weight_names, without
from src.primitives.ranks import Rank


@dataclass(frozen=True, kw_only=True)
class LowRank(Method):
    """Factorise dense layers and convolutions by truncated singular value decomposition, if that saves weights.

    A dense layer ``W [out, in]`` becomes ``in -> r`` without bias and ``r -> out``. A convolution ``[out, in, kh, kw]``
    is decomposed as the matrix ``[out, in kh kw]``: a convolution ``in -> r`` of the same kernel, stride and padding,
    and one of 1x1 ``r -> out``. Grouped convolutions stay as they are.

    Attributes:
        rank: Chooses a layer's rank from its singular values; or one such object for each pattern of weight names.
        ignored: Patterns of weight names that are left as they are.
        fine_tune: How the factors are trained; None leaves them.

    Paper: Denton et al. 2014, arXiv:1404.0736, section 3; convolutions: Zhang et al. 2015, arXiv:1505.06798,
    section 3.1, without its response reconstruction.
    """

    rank: Rank | Mapping[str, Rank]
    ignored: Sequence[str]
    fine_tune: Recipe | None

    undoes = MappingProxyType(
        {"zeros": "the factors of a sparse matrix are dense", "shared values": "the factors have new values"}
    )

    def compress(self, model: nn.Module, context: Context) -> Compressed:
        """Factorise ``model`` in place.

        Raises:
            NoEffectError: No layer would become smaller.
            ValueError: A pattern matches nothing, two layers share a weight, or the factorised network does not run.
        """
        names = without(weight_names(model), self.ignored)
        ranks: dict[str, Rank] = per_layer(self.rank, names, "rank")
        refuse_shared(model, names, "factorising would untie them; add it to ignored")
        factorised: dict[str, int] = {}
        for name in names:
            layer = layer_name(name)
            factors = factorise(model.get_submodule(layer), ranks[name])
            if factors is not None:
                replace_module(model, layer, factors)
                factorised[layer] = factors.rank
        if not factorised:
            raise NoEffectError("no layer would get smaller at this rank: nothing was factorised")
        _require_runs(model, context.example_input)
        if self.fine_tune is not None:
            context.fine_tune(model, self.fine_tune)
        return Compressed(model, {"ranks": factorised})

    def rebuild(self, model: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Replace the recorded layers by factors of the recorded ranks."""
        for name, rank in structure["ranks"].items():
            replace_module(model, name, empty_factors(model.get_submodule(name), rank))
        return model


class Factors(nn.Sequential):
    """Two layers in place of one."""

    @property
    def rank(self) -> int:
        """Number of outputs of the first layer."""
        first: Tensor = self[0].weight  # type: ignore[assignment]
        return first.shape[0]


def factorise(layer: nn.Module, rank: Rank) -> Factors | None:
    """Factorise a layer by truncated singular value decomposition.

    Returns:
        The factors; None if they would have no fewer weights, or if the layer is of another kind.
    """
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return None
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return None
    with torch.no_grad():
        matrix = layer.weight.detach().double().flatten(1)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        r = rank(values)
        if r * sum(matrix.shape) >= matrix.numel():
            return None
        factors = empty_factors(layer, r)
        root = values[:r].sqrt()
        _set_weight(factors[0], root[:, None] * right[:r])
        _set_weight(factors[1], left[:, :r] * root)
        if layer.bias is not None:
            factors[1].bias.copy_(layer.bias)  # type: ignore[operator]
    return factors


def empty_factors(layer: nn.Module, rank: int) -> Factors:
    """Two layers of the shapes that the factors of ``layer`` have at ``rank``; their weights are random."""
    biased = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return Factors(nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=biased))
    assert isinstance(layer, nn.Conv2d)
    first = nn.Conv2d(
        layer.in_channels,
        rank,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        bias=False,
        padding_mode=layer.padding_mode,
    )
    return Factors(first, nn.Conv2d(rank, layer.out_channels, 1, bias=biased))


def _set_weight(layer: nn.Module, matrix: Tensor) -> None:
    layer.weight.copy_(matrix.view_as(layer.weight).float())  # type: ignore[operator, arg-type]


def _require_runs(model: nn.Module, example_input: Tensor) -> None:
    """Raise ValueError if the network does not run, e.g. because its forward uses the weight of a replaced layer."""
    try:
        with torch.no_grad():
            model.eval()(example_input)
    except Exception as error:  # a user's forward may raise anything
        raise ValueError(f"the factorised network does not run ({error}); add that layer to ignored") from error
